"""What a request did in the engine, for those who want to know once it has ended: traces, capsules, logs.

Whoever watches is asked to be quick: it runs on the event loop. Without watchers none of this is in the way.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mosso.api.generation import closing
from mosso.core.errors import MossoError
from mosso.core.requests import EngineLimits, EngineStats, Request, TokenEvent, TokenLogprob
from mosso.core.seeding import with_seed
from mosso.core.source import TokenSource
from mosso.server.record import RequestRecord, record_of

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/api/chat": "chat",
    "/api/generate": "text_completion",
}
"""Paths that generate, and the GenAI conventions' word for what they do."""


@dataclass(slots=True)
class Generation:
    """One sequence that the engine continued for a request. Times are time.monotonic()'s."""

    request: Request  # with the seed that was used
    begun: float = field(default_factory=time.monotonic)
    first: float | None = None  # when its first token came
    ended: float | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    cached_tokens: int = 0
    queued_seconds: float = 0.0
    thinking_ended: int | None = None  # by hand, when so many tokens were there
    finish: str | None = None  # None: left before its end
    error: str | None = None

    def saw(self, event: TokenEvent) -> None:
        if event.tokens and self.first is None:
            self.first = time.monotonic()
        self.tokens += event.tokens
        self.logprobs += event.logprobs
        self.cached_tokens += event.cached_tokens
        self.queued_seconds += event.queued_seconds
        self.error = event.error or self.error
        if event.finish is not None:
            self.finish = event.finish.value


@dataclass(slots=True, eq=False)
class Watch:
    """One HTTP request that is watched, and what the engine does for it."""

    record: RequestRecord
    operation: str
    begun_ns: int = field(init=False)  # the moment of `record.started`, in nanoseconds since 1970
    generations: list[Generation] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # how the choices ended: stop, length, tool_calls, ...
    answered: bool = False  # the HTTP request is over; work in the background may go on
    notes: dict[object, Any] = field(default_factory=dict)  # each watcher's own

    def __post_init__(self) -> None:
        # In this order: whatever comes between the two readings, no moment is said to be later than it was.
        now = time.time_ns()
        self.begun_ns = now - round((time.monotonic() - self.record.started) * 1e9)

    @property
    def is_over(self) -> bool:
        return self.answered and all(generation.ended is not None for generation in self.generations)

    def unix_ns(self, at: float) -> int:
        """A time.monotonic() as nanoseconds since 1970."""
        return self.begun_ns + round((at - self.record.started) * 1e9)


class Watcher(Protocol):
    def begun(self, watch: Watch, headers: Headers) -> None: ...

    def ended(self, watch: Watch) -> None:
        """All is over: called again if something began in the background after that, and ended."""


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


def note_end(reason: str) -> None:
    """A choice of the watched request that this task works for has ended, in the dialect's words."""
    if (watch := _watch.get()) is not None:
        watch.reasons.append(reason)


class Watching:
    """The middleware. Stands inside RequestContext, which makes the record."""

    def __init__(self, app: ASGIApp, watchers: Sequence[Watcher]) -> None:
        self._app = app
        self._watchers = watchers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = OPERATIONS.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        if operation is None:
            await self._app(scope, receive, send)
            return
        watch = Watch(record_of(scope), operation)
        watch.notes[Watching] = self._watchers
        for watcher in self._watchers:
            watcher.begun(watch, Headers(scope=scope))
        token = _watch.set(watch)
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            watch.record.error = type(error).__name__
            raise
        finally:
            _watch.reset(token)
            watch.answered = True
            _tell_end(watch)


def _tell_end(watch: Watch) -> None:
    if watch.is_over:
        for watcher in watch.notes[Watching]:
            watcher.ended(watch)


class WatchedSource:
    """A TokenSource that notes what it gives, for the request that asks."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._open: dict[str, Generation] = {}

    @property
    def limits(self) -> EngineLimits:
        return self._source.limits

    def stream(self, request: Request) -> AsyncIterator[TokenEvent]:
        """See TokenSource.stream."""
        watch = _watch.get()
        return self._source.stream(request) if watch is None else self._watched(with_seed(request), watch)

    async def _watched(self, request: Request, watch: Watch) -> AsyncGenerator[TokenEvent]:
        generation = self._open[request.id] = Generation(request)
        watch.generations.append(generation)
        try:
            async with closing(self._source.stream(request)) as events:
                async for event in events:
                    generation.saw(event)
                    yield event
        except MossoError as error:
            generation.error = error.message
            raise
        finally:
            generation.ended = time.monotonic()
            self._open.pop(request.id, None)
            _tell_end(watch)

    async def abort(self, request_id: str) -> None:
        await self._source.abort(request_id)

    async def end_thinking(self, request_id: str) -> None:
        if (generation := self._open.get(request_id)) is not None:
            generation.thinking_ended = len(generation.tokens)
        await self._source.end_thinking(request_id)

    async def stats(self) -> EngineStats:
        return await self._source.stats()

    async def close(self) -> None:
        await self._source.close()
