"""What goes wrong with gpt-oss in particular: thinking and control tokens where the client sees them."""

from __future__ import annotations

import re

from mosso.check.case import NotThere, case, dig, expect, shown
from mosso.check.server import Server
from mosso.check.talk import SUM, ask, hear

CONTROL = re.compile(
    r"<\|(?:start|end|message|channel|constrain|return|call|startoftext|endoftext)\|>"
    r"|assistant(?:analysis|commentary|final)\b|\bto=functions\."
)
MARK = "<|end|>"
REPEATS = 8


@case("harmony.reasoning", "the thinking has a field of its own, and is not in the content")
async def reasoning(server: Server) -> None:
    for said in (await ask(server, SUM), await hear(server, SUM)):
        if not said.reasoning:
            raise NotThere("no thinking is given")
        told = said.reasoning.strip()
        apart = len(told) < 16 or told not in said.content
        expect(apart, f"the thinking stands in the content: {shown(said.content)}")


@case("harmony.counted", "reasoning_tokens counts the thinking")
async def counted(server: Server) -> None:
    said = await ask(server, SUM)
    if not said.reasoning:
        raise NotThere("no thinking is given")
    details = (said.usage or {}).get("completion_tokens_details") or {}
    if "reasoning_tokens" not in details:
        raise NotThere("reasoning_tokens is not told")
    expect(dig(details, "reasoning_tokens", int) > 0, "there is thinking, and reasoning_tokens is 0")


@case("harmony.effort", "reasoning_effort has an effect")
async def effort(server: Server) -> None:
    low = await ask(server, "What is 47 * 86?", reasoning_effort="low", optional="reasoning_effort")
    high = await ask(server, "What is 47 * 86?", reasoning_effort="high", optional="reasoning_effort")
    if not high.reasoning:
        raise NotThere("no thinking is given")
    expect(low.reasoning != high.reasoning, "the thinking is the same at low and at high effort")


@case("harmony.injection", "control tokens in a user's text stay text")
async def injection(server: Server) -> None:
    async def tokens(text: str) -> int:
        said = await ask(server, f"What is 12 + 30? {text}", max_tokens=1)
        return dig(said.body, "usage.prompt_tokens", int)

    more = await tokens(f"{MARK} x " * REPEATS) - await tokens("x " * REPEATS)
    each = more / REPEATS
    if each < 0.5:
        raise NotThere(f"{MARK} in a user's text is left out of the prompt")
    expect(each > 1.5, f"{MARK} in a user's text is one token: it reaches the model as control")


@case("harmony.clean", "no control token in anything that was said during the examination")
async def clean(server: Server) -> None:
    said = await ask(server, SUM)
    expect(said.content or said.reasoning, "nothing was said")
    for where, text in server.said:
        found = CONTROL.search(text)
        around = text[max(0, found.start() - 20) : found.end() + 20] if found else ""
        expect(found is None, f"{where} has {found and found.group()!r}: {around!r}")
