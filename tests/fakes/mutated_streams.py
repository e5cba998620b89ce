"""Harmony streams as models spoil them, through the whole server: nothing said is lost, nothing breaks.

    python tests/fakes/mutated_streams.py 10000        SEED FIRST may follow

Every stream goes over a real socket four ways: chat and Responses, each whole and streamed. What must hold:

- no answer but 200, and streams in the order that `mosso check` demands;
- streamed and whole say the same;
- each message's text stands in content, reasoning or arguments, and these hold no other characters;
- whatever stands behind a `<|message|>` is such text. This is read off the tokens without our parser, so the
  parser is held to it too. What stands elsewhere is header.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from mosso_fakes import ScriptedSource, harmony, small_tokenizer

from mosso.check import responses
from mosso.check.server import Server
from mosso.check.talk import Said, ask, hear
from mosso.core.json import JsonObject
from mosso.harmony.parser import parse

TOKENIZER = small_tokenizer()
CONTROL = TOKENIZER.control
ENDS = (CONTROL.return_, CONTROL.call, CONTROL.endoftext)  # the engine stops behind these
SCHEMA: JsonObject = {"type": "object", "properties": {"q": {"type": "string"}}}
FIND = {"name": "find", "description": "Find it.", "parameters": SCHEMA}

WORDS = [
    "the",
    "Hallö",
    "in an",
    "漢字",
    "🙂👨‍👩‍👧",
    "a < b",
    "\n\n",
    '"',
    "to=functions.find",
    "analysis",
    "x" * 70,
    "{",
    "é",
]
HEADERS = [
    "<|channel|>analysis",
    "<|channel|>final",
    "<|channel|>commentary",
    "<|channel|>commentary to=functions.find <|constrain|>json",
    " to=functions.find<|channel|>commentary json",
    "<|channel|>analysis to=python code",
    "<|channel|>commentary to=functions.other",
    "",
]
SCRAPS = [
    "assistant", " to=", " to=functions.find", "analysis", "final", "commentary", "json", "user", "{", "}",
    "assistantanalysis", "functions", "é", " ", "\n",
]  # fmt: skip


def stream_of(rng: random.Random) -> list[int]:
    """A turn of one to four messages, spoiled in none to five places."""
    text = "<|start|>assistant".join(_message(rng) for _ in range(rng.randint(1, 4)))
    tokens = list(harmony(TOKENIZER, text))
    for _ in range(rng.randint(0, 5)):
        _spoil(rng, tokens)
    return tokens or [CONTROL.return_]  # an engine gives at least one token


def _message(rng: random.Random) -> str:
    content = " ".join(rng.choices(WORDS, k=rng.randint(0, 6)))
    if rng.random() < 0.3:
        content = json.dumps({"q": content}, ensure_ascii=False)
    end = rng.choices(("end", "call", "return", "endoftext"), (6, 1, 1, 1))[0]
    return f"{rng.choice(HEADERS)}<|message|>{content}<|{end}|>"


def _spoil(rng: random.Random, tokens: list[int]) -> None:
    at = rng.randint(0, len(tokens))
    match rng.choice(("delete", "insert", "insert", "replace", "swap", "scrap", "cut", "repeat")):
        case "delete":
            del tokens[at : at + rng.randint(1, 6)]
        case "insert":
            tokens.insert(at, _token(rng))
        case "replace":
            tokens[at : at + 1] = [_token(rng)]
        case "swap":
            tokens[at : at + 2] = tokens[at : at + 2][::-1]
        case "scrap":
            tokens[at:at] = TOKENIZER.encode(rng.choice(SCRAPS))
        case "cut":
            del tokens[at + 20 :]
        case _:
            tokens[at:at] = tokens[at : at + rng.randint(1, 30)]


def _token(rng: random.Random) -> int:
    """Mostly control tokens; single bytes, which may be halves of characters; ids of no token."""
    odd = rng.choice((-1, 1_000_000, 300, 268))
    return rng.choice((rng.randint(256, 264), rng.randint(256, 264), rng.randint(0, 255), odd))


@dataclass(frozen=True)
class Shown:
    """What a client was shown, of whatever kind, in pieces; two of its kinds, and how it ended."""

    texts: tuple[str, ...]
    content: str
    reasoning: str
    finish: str


def _own(arguments: str) -> str:
    """Arguments that the model wrote itself: a call without any is given an empty object."""
    return "" if arguments.strip() == "{}" else arguments


def by_chat(said: Said) -> Shown:
    arguments = (_own(call.arguments) for call in said.calls)
    return Shown((said.content, said.reasoning, *arguments), said.content, said.reasoning, str(said.finish))


def by_responses(body: dict[str, Any]) -> Shown:
    texts = []
    for item in body["output"]:
        texts.append(_own(item.get("arguments", "")))
        texts += [part["text"] for part in item.get("content") or []]
    return Shown(tuple(texts), responses.text_of(body), "", body["status"])


def played(tokens: Sequence[int]) -> list[int]:
    """What the engine plays: up to the first token that ends a turn."""
    stops = [place for place, token in enumerate(tokens) if token in ENDS]
    return list(tokens[: stops[0] + 1] if stops else tokens)


def behind_message(tokens: Sequence[int]) -> str:
    """Text that stands behind a `<|message|>`, by the tokens alone."""
    closing = {CONTROL.start, CONTROL.channel, CONTROL.end, *ENDS}
    messages, inside = [bytearray()], False
    for token in tokens:
        if token == CONTROL.message:
            inside = True
        elif token in closing:
            inside = False
            messages.append(bytearray())
        elif inside and not TOKENIZER.is_control(token):
            messages[-1] += TOKENIZER.token_bytes(token)
    return "".join(message.decode(errors="ignore") for message in messages)


def check(tokens: Sequence[int], shown: Shown) -> None:
    """AssertionError where something of the played tokens is missing in what was shown, or was invented."""
    told = _characters("".join(shown.texts))
    messages = parse(TOKENIZER, tokens)
    assert told == _characters("".join(message.text for message in messages if message.text.strip() != "{}"))
    for message in messages:
        text = message.text.strip()
        assert not text or text == "{}" or any(text in whole for whole in shown.texts), text
    missing = _characters(behind_message(tokens)) - told - Counter("{}")
    assert not missing, f"lost: {missing}"


def _characters(text: str) -> Counter[str]:
    """White space separates messages, and may be added."""
    return Counter("".join(text.split()))


async def examine(server: Server, source: ScriptedSource, seed: int) -> None:
    """One stream, four ways."""
    rng = random.Random(seed)
    tokens = stream_of(rng)
    source.script, source.batch = lambda request: tokens, rng.choice((1, 1, 2, 7))
    source.seen.clear()
    server.said.clear()
    tools = rng.random() < 0.7
    offered: dict[str, Any] = {"tools": [{"type": "function", "function": FIND}]} if tools else {}
    logprobs: dict[str, Any] = {"logprobs": True, "top_logprobs": 2} if rng.random() < 0.2 else {}
    whole = by_chat(await ask(server, "Hi.", **offered, **logprobs))
    assert whole == by_chat(await hear(server, "Hi.", **offered, **logprobs))
    check(played(tokens), whole)
    given = {"tools": [{"type": "function", "strict": False, **FIND}]} if tools else {}
    body = await responses.create(server, "Hi.", store=False, **given)
    events = await responses.events_of(server, "Hi.", store=False, **given)
    response = by_responses(body)
    assert response == by_responses(responses.check_order(server, events))
    check(played(tokens), response)
    source.seen.clear()


async def examine_all(url: str, model: str, source: ScriptedSource, seeds: Iterator[int] | range) -> int:
    """How many were examined; the first that fails is told by its seed."""
    count = 0
    async with Server(url, model=model) as server:
        for seed in seeds:
            try:
                await examine(server, source, seed)
            except Exception as error:
                error.add_note(f"seed {seed}: {played(stream_of(random.Random(seed)))}")
                raise
            count += 1
    return count


def main() -> None:
    import threading

    from mosso_fakes import SETTINGS

    from mosso.server.app import create_app
    from mosso.server.run import serve
    from mosso.server.settings import ServerSettings

    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    source, url, started = ScriptedSource(lambda request: ()), [], threading.Event()
    app = create_app(source, TOKENIZER, ServerSettings(api=SETTINGS, drain_seconds=1.0))

    def tell(at: str) -> None:
        url.append(at)
        started.set()

    thread = threading.Thread(target=serve, args=(app,), kwargs={"port": 0, "on_start": tell})
    thread.start()
    started.wait()
    began = time.perf_counter()
    try:
        examined = asyncio.run(examine_all(url[0], SETTINGS.model, source, range(first, first + count)))
        metrics = httpx.get(f"{url[0]}/metrics", timeout=60).text
    finally:
        app.state.lifecycle.drain()
        thread.join()
    repairs = [line for line in metrics.splitlines() if line.startswith("mosso:repairs_total")]
    print(*repairs, sep="\n")
    print(f"{examined} streams, each four ways, in {time.perf_counter() - began:.0f} s: nothing lost")


if __name__ == "__main__":
    main()
