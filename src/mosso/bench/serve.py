"""Any OpenAI-compatible server over HTTP: time to first token, time between tokens, throughput.

The load generator must not be what is measured. So a request is a bare socket: what arrives is stamped and
kept, and only when every answer is here is any of it taken apart. A request closes its connection, so that
its end needs no reading either. The clock starts when a request is sent; the connection is there by then.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import quantiles
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mosso.core.parent import end_with_parent

WORDS = (
    "time",
    "year",
    "people",
    "way",
    "day",
    "thing",
    "life",
    "child",
    "world",
    "school",
    "state",
    "group",
)

SILENCE_SECONDS = 600.0  # after which a request is given up: in a queue it may well wait for minutes

Pieces = Iterable[tuple[float, bytes]]
"""Bytes in order, each with the moment when it came."""


@dataclass(frozen=True, slots=True)
class Load:
    """`requests` in all, each of `words` words, about a token each, for up to `output` tokens.

    `rate` None: `users` at once, each with its next request as soon as the one before is answered. Else
    requests arrive at random moments, `rate` a second on average, however many are under way.
    `full`: every answer has `output` tokens. `completions`: as text completions, not as chats; with random
    weights a chat has no text, as its header does not end. `api_key`: for a server that asks for one.
    """

    users: int
    requests: int
    words: int
    output: int
    rate: float | None = None
    full: bool = False
    completions: bool = False
    api_key: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class Result:
    """One request: seconds to its first token, gaps between its events, tokens as the server counted them."""

    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None

    @property
    def per_token(self) -> float | None:
        """Seconds from one token to the next, on average; None with less than two."""
        return sum(self.gaps) / (self.output_tokens - 1) if self.output_tokens > 1 and self.gaps else None


class Answer(asyncio.Protocol):
    """All that arrives on one connection, until the server closes it."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.sent = 0.0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(exc)


def measure(url: str, model: str, load: Load) -> dict[str, Any]:
    """Put `load` on the server whose API is at `url` (it ends in /v1), from a process of its own.

    The server may live in this one, and must not share its interpreter with those who load it.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
        return pool.submit(_measured, url, model, load).result()


def _measured(url: str, model: str, load: Load) -> dict[str, Any]:
    return asyncio.run(measure_here(url, model, load))


async def measure_here(url: str, model: str, load: Load, seed: int = 0) -> dict[str, Any]:
    """As `measure`, in this process."""
    rng = random.Random(seed)
    target = urlsplit(f"{url}/{'completions' if load.completions else 'chat/completions'}")
    calls = [call_of(target, model, load, rng) for _ in range(load.requests)]
    start = time.perf_counter()
    if load.rate is None:
        answers = await _users(target, calls, load.users)
    else:
        answers = await _arrivals(target, calls, load.rate, rng)
    seconds = time.perf_counter() - start
    users = load.users if load.rate is None else None
    return {"rate": load.rate, **_summary([read_answer(answer) for answer in answers], seconds, users)}


async def _users(target: SplitResult, calls: list[bytes], users: int) -> list[Answer | str]:
    answers: list[Answer | str] = []
    waiting = iter(calls)

    async def user() -> None:
        for call in waiting:
            answers.append(await send(target, call))

    await asyncio.gather(*(user() for _ in range(users)))
    return answers


async def _arrivals(
    target: SplitResult, calls: list[bytes], rate: float, rng: random.Random
) -> list[Answer | str]:
    tasks = []
    due = time.perf_counter()
    for call in calls:
        await asyncio.sleep(due - time.perf_counter())
        tasks.append(asyncio.create_task(send(target, call)))
        due += rng.expovariate(rate)
    return await asyncio.gather(*tasks)


async def send(target: SplitResult, call: bytes) -> Answer | str:
    """What the server answered, or why nothing came."""
    secure = target.scheme == "https"
    port = target.port or (443 if secure else 80)
    try:
        context = ssl.create_default_context() if secure else None
        transport, answer = await asyncio.get_running_loop().create_connection(
            Answer, target.hostname or "", port, ssl=context
        )
        answer.sent = time.perf_counter()
        transport.write(call)
        if not await _ended(answer):
            transport.abort()
            return f"the server sent nothing for {SILENCE_SECONDS:g} s"
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return answer


async def _ended(answer: Answer) -> bool:
    """Whether it comes to its end; not so where nothing comes any more. Raises OSError for a broken one."""
    pieces = -1
    while len(answer.pieces) > pieces:
        pieces = len(answer.pieces)
        await asyncio.wait((answer.over,), timeout=SILENCE_SECONDS)
        if answer.over.done():
            answer.over.result()
            return True
    return False


def call_of(target: SplitResult, model: str, load: Load, rng: random.Random) -> bytes:
    """One request of `load`, with a prompt of its own."""
    return _http_call(target, _body(rng, model, load), load.api_key)


def _body(rng: random.Random, model: str, load: Load) -> dict[str, Any]:
    text = " ".join(rng.choices(WORDS, k=load.words))
    prompt = {"prompt": text} if load.completions else {"messages": [{"role": "user", "content": text}]}
    return {
        "model": model,
        **prompt,
        "max_tokens": load.output,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"ignore_eos": True, "min_tokens": load.output} if load.full else {}),
    }


def _http_call(target: SplitResult, body: dict[str, Any], api_key: str | None) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {target.path} HTTP/1.1",
        f"Host: {target.netloc.rpartition('@')[2]}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        f"Content-Length: {len(content)}",
        "Connection: close",
        *((f"Authorization: Bearer {api_key}",) if api_key else ()),
    )
    return "\r\n".join((*head, "", "")).encode() + content


def read_answer(answer: Answer | str) -> Result:
    """Take an answer apart, with the moments at which its parts came. Any bytes at all give a result."""
    if isinstance(answer, str):
        return Result(error=answer)
    try:
        return _read(answer)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        return Result(error=f"the server sent what is no answer: {type(error).__name__}: {error}"[:200])


def _read(answer: Answer) -> Result:
    """Raises one of many errors for an answer that is none."""
    whole = b"".join(data for _, data in answer.pieces)
    head, _, rest = whole.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        return Result(
            error=(rest or head or b"the server closed the connection").decode(errors="replace")[:200]
        )
    body = after(len(head) + 4, answer.pieces)
    result = Result()
    last = answer.sent
    for moment, data in events(dechunked(body) if b"transfer-encoding: chunked" in head.lower() else body):
        if data == b"[DONE]":
            return result
        try:
            chunk = json.loads(data)
        except ValueError:
            return Result(error=f"the server sent what is not JSON: {data[:100]!r}")
        if error := chunk.get("error"):
            result.error = str(error)[:200]
        if usage := chunk.get("usage"):
            result.prompt_tokens = _count(usage["prompt_tokens"])
            result.output_tokens = _count(usage["completion_tokens"])
        if any(_has_text(choice) for choice in chunk.get("choices") or ()):
            if result.first is None:
                result.first = moment - answer.sent
            else:
                result.gaps.append(moment - last)
            last = moment
    result.error = result.error or "the stream ended before its end"
    return result


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise ValueError(f"a usage of {value!r} tokens")
    return value


def _has_text(choice: dict[str, Any]) -> bool:
    """Not so: the event that only opens the message, and the one that only says how it ended."""
    delta = choice.get("delta") or {}
    return bool(
        choice.get("text")
        or any(delta.get(name) for name in ("content", "reasoning", "reasoning_content", "tool_calls"))
    )


def after(count: int, pieces: Pieces) -> Iterator[tuple[float, bytes]]:
    """Without the first `count` bytes."""
    for moment, data in pieces:
        if len(data) > count:
            yield moment, data[count:]
        count = max(0, count - len(data))


def dechunked(pieces: Pieces) -> Iterator[tuple[float, bytes]]:
    """The content of a body in HTTP's chunked coding (RFC 9112, 7.1), whatever the cuts between pieces.

    Raises ValueError for a size that is none.
    """
    buffer, left = b"", 0  # left: of the chunk at hand, with the line end that follows it
    for moment, data in pieces:
        buffer += data
        while buffer:
            if not left:
                size, end, rest = buffer.partition(b"\r\n")
                if not end:
                    break
                buffer, left = rest, int(size.partition(b";")[0], 16) + 2
                if left == 2:
                    return
                if left < 2:
                    raise ValueError(f"a chunk of {left - 2} bytes")
                continue
            piece, buffer = buffer[:left], buffer[left:]
            content = piece[: max(0, left - 2)]
            left -= len(piece)
            if content:
                yield moment, content


def events(pieces: Pieces) -> Iterator[tuple[float, bytes]]:
    """The data of each server-sent event, with the moment when its line was whole."""
    buffer = b""
    for moment, data in pieces:
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield moment, line[5:].strip()


def _summary(results: list[Result], seconds: float, users: int | None) -> dict[str, Any]:
    good = [result for result in results if result.error is None]
    return {
        "users": users,
        "requests": len(results),
        "failed": len(results) - len(good),
        "seconds": seconds,
        "prompt_tokens": sum(result.prompt_tokens for result in good),
        "output_tokens": sum(result.output_tokens for result in good),
        "output_rate": sum(result.output_tokens for result in good) / seconds,
        "first_token_ms": percentiles(result.first for result in good),
        "per_token_ms": percentiles(result.per_token for result in good),
        "between_events_ms": percentiles(gap for result in good for gap in result.gaps),
        "first_error": next((result.error for result in results if result.error), None),
    }


def percentiles(values: Iterable[float | None]) -> dict[str, float]:
    """In milliseconds, of the seconds that are known."""
    seconds = [value for value in values if value is not None]
    if len(seconds) < 2:
        return {"p50": 1e3 * seconds[0]} if seconds else {}
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {f"p{n}": 1e3 * cuts[n - 1] for n in (50, 90, 99)}
