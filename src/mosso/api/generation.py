"""From requests to deltas: reads the token streams of all choices, and ends each one exactly once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mosso.api.observer import Observer
from mosso.api.usage import TokenCounts
from mosso.core.errors import EngineError, RequestError, UnavailableError
from mosso.core.requests import FinishReason, Request, TokenEvent
from mosso.core.source import TokenSource

MOST_AT_ONCE = 32  # deltas of one choice that are sent together
D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)


class Machine(Protocol[D_co]):
    """A choice's state machine: token events in, deltas out."""

    counts: TokenCounts
    done: bool
    finish_reason: str

    def feed(self, event: TokenEvent) -> Sequence[D_co]: ...


@dataclass(frozen=True, slots=True)
class Choice(Generic[D]):
    """A request to the engine, and what makes sense of its tokens."""

    request: Request
    machine: Machine[D]


async def generate(
    source: TokenSource, choices: Sequence[Choice[D]], observer: Observer
) -> AsyncGenerator[tuple[int, Sequence[D]]]:
    """(choice index, deltas) as they come, choices interleaved; closing it aborts what still runs.

    The first choice that fails fails them all. Errors are those of TokenSource.stream.
    """
    if len(choices) == 1:
        async with closing(_deltas(source, choices[0], observer)) as stream:
            async for deltas in stream:
                yield 0, deltas
        return
    queue: asyncio.Queue[tuple[int, Sequence[D] | Exception | None]] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_pump(index, _deltas(source, choice, observer), queue))
        for index, choice in enumerate(choices)
    ]
    try:
        running = len(tasks)
        while running:
            index, item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    index: int,
    stream: AsyncGenerator[Sequence[D]],
    queue: asyncio.Queue[tuple[int, Sequence[D] | Exception | None]],
) -> None:
    try:
        async with closing(stream):
            async for deltas in stream:
                queue.put_nowait((index, deltas))
        queue.put_nowait((index, None))
    except Exception as error:
        queue.put_nowait((index, error))


async def _deltas(source: TokenSource, choice: Choice[D], observer: Observer) -> AsyncGenerator[Sequence[D]]:
    """Those of several events at once where more has arrived: so a server that is behind catches up, as what
    it costs to send some text hardly depends on how much it is."""
    machine, watch = choice.machine, _Watch(observer)
    deltas: list[D] = []
    reason = "abort"  # whoever leaves early aborts: the client, or another choice's failure
    try:
        async with closing(source.stream(choice.request)) as events:
            async for event in events:
                watch.saw(event)
                _raise_failure(event)
                deltas += machine.feed(event)
                if machine.done:
                    reason = machine.finish_reason
                elif event.more and len(deltas) < MOST_AT_ONCE:
                    continue
                if deltas:
                    yield deltas
                    deltas = []
                if machine.done:
                    return
        raise EngineError("The engine ended the stream without a reason.")
    except Exception:
        reason = "error"
        if deltas:
            yield deltas
        raise
    finally:
        watch.ended()
        observer.finished(reason, generated_tokens=machine.counts.generated, seconds=watch.age())


def _raise_failure(event: TokenEvent) -> None:
    if event.refused:
        raise RequestError(event.error or "The request cannot go on.")
    if event.finish is FinishReason.ERROR:
        raise EngineError(event.error or "The engine failed while it worked on the request.")
    if event.finish is FinishReason.ABORT:
        raise UnavailableError("The request was aborted by the server.")


class _Watch:
    """Times one stream for the observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._started = time.monotonic()
        self._queued = 0.0
        self._count = 0
        self._first: float | None = None
        self._last = 0.0

    def saw(self, event: TokenEvent) -> None:
        self._queued += event.queued_seconds
        if not event.tokens:
            return
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._observer.first_token(now - self._started)
        else:
            self._observer.more_tokens(len(event.tokens), now - self._last)
        self._last = now
        self._count += len(event.tokens)

    def ended(self) -> None:
        if self._first is not None:
            prefill = max(0.0, self._first - self._started - self._queued)
            decode = self._last - self._first
            self._observer.spent(queued=self._queued, prefill=prefill, decode=decode, tokens=self._count)

    def age(self) -> float:
        return time.monotonic() - self._started


@asynccontextmanager
async def closing(stream: AsyncIterator[D]) -> AsyncGenerator[AsyncIterator[D]]:
    """Closes an iterator at the end if it can be closed: for a TokenSource's stream this is the abort."""
    try:
        yield stream
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
