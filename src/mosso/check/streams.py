"""Streamed chat: the order of its chunks, and that it says what the whole answer says."""

from __future__ import annotations

import asyncio

from mosso.check.case import NotThere, case, dig, expect, shown
from mosso.check.chat import FINISHES
from mosso.check.server import Server
from mosso.check.talk import PATH, SUM, ask, chunks_of, hear, joined, noted, request, successful

WORDS = "Grüße, 日本語 🎼 naïve"


@case("stream.order", "role first, deltas, one finish, [DONE] last; one id and one model")
async def order(server: Server) -> None:
    stream = await server.stream(PATH, request(server, SUM, stream=True))
    successful(stream.whole)
    expect(stream.content_type.startswith("text/event-stream"), f"content-type is {stream.content_type!r}")
    expect(stream.events, "the stream is empty")
    marks = [place for place, (_, data) in enumerate(stream.events) if data == "[DONE]"]
    expect(marks == [len(stream.events) - 1], "the stream does not end in one [DONE]")
    chunks = chunks_of(stream)
    for name, kind in (("id", str), ("model", str), ("created", int)):
        expect(len({dig(chunk, name, kind) for chunk in chunks}) == 1, f"{name} changes within the stream")
    kinds = {chunk.get("object") for chunk in chunks}
    expect(kinds == {"chat.completion.chunk"}, f"object is {shown(kinds)}")
    choices = [choice for chunk in chunks for choice in dig(chunk, "choices", list)]
    expect(dig(choices, "0.delta", dict).get("role") == "assistant", "the first delta has not the role")
    finishes = [choice.get("finish_reason") for choice in choices]
    ends = [place for place, reason in enumerate(finishes) if reason is not None]
    expect(ends == [len(choices) - 1], f"finish reasons come as {shown(finishes[-3:])}")
    expect(finishes[-1] in FINISHES, f"finish_reason is {shown(finishes[-1])}")
    expect(noted(server, joined(chunks)).content, "the answer to a sum has no content")


@case("stream.pieces", "the answer comes in pieces, not as one")
async def pieces(server: Server) -> None:
    stream = await server.stream(PATH, request(server, "Count from 1 to 20.", stream=True))
    successful(stream.whole)
    deltas = [choice.get("delta") or {} for chunk in chunks_of(stream) for choice in chunk.get("choices", [])]
    count = sum(
        any(delta.get(name) for name in ("content", "reasoning", "reasoning_content")) for delta in deltas
    )
    expect(count > 1, f"the text came in {count} pieces")


@case("stream.usage", "include_usage adds one last chunk, with usage and no choices")
async def usage(server: Server) -> None:
    asked = request(server, SUM, stream=True, stream_options={"include_usage": True})
    stream = await server.stream(PATH, asked)
    successful(stream.whole, "stream_options")
    chunks = chunks_of(stream)
    expect(chunks and chunks[-1].get("usage"), "the last chunk has no usage")
    expect(chunks[-1].get("choices") == [], "the chunk with the usage has choices")
    counts = chunks[-1]["usage"]
    total = dig(counts, "prompt_tokens", int) + dig(counts, "completion_tokens", int)
    expect(dig(counts, "total_tokens", int) == total, f"the counts do not add up: {shown(counts)}")


@case("stream.same", "streamed and whole answers are the same at temperature 0")
async def same(server: Server) -> None:
    whole, streamed = await ask(server, SUM), await hear(server, SUM)
    for part in ("content", "reasoning", "finish"):
        one, other = getattr(whole, part), getattr(streamed, part)
        expect(one == other, f"{part} is {shown(one)} whole and {shown(other)} streamed")


@case("stream.unicode", "characters of several bytes are never torn")
async def unicode(server: Server) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "words", "strict": True, "schema": {"enum": [WORDS]}},
    }
    asked = f"Say exactly this, as a JSON string: {WORDS}"
    said = await hear(server, asked, response_format=form, optional="response_format")
    expect(said.content, "nothing was said")
    expect("\ufffd" not in said.content, f"a character was torn: {shown(said.content)}")
    if not any(ord(character) > 127 for character in said.content):
        raise NotThere(f"the model said it without such characters: {shown(said.content)}")


@case("load.eight", "eight streams at once, each with its own answer")
async def eight(server: Server) -> None:
    sums = [(100 + 7 * index, 11 + 13 * index) for index in range(8)]
    asked = (hear(server, f"What is {a} + {b}?") for a, b in sums)
    answers = await asyncio.gather(*asked)
    for (a, b), said in zip(sums, answers, strict=True):
        expect(str(a + b) in said.content.replace(",", ""), f"{a} + {b} is answered {shown(said.content)}")


@case("load.hangup", "clients that hang up midway leave the server as it was")
async def hangup(server: Server) -> None:
    for _ in range(4):
        async with server.open(PATH, request(server, "Count from 1 to 50.", stream=True)) as response:
            expect(response.status_code == 200, f"a stream is answered {response.status_code}")
            async for _line in response.aiter_lines():
                break
    expect((await ask(server, SUM)).content, "no answer after four clients hung up")
