"""What the routes of one app share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from mosso.api.caller import Caller
from mosso.api.services import Services
from mosso.api.usage import Report, Usage
from mosso.api.wire import WireRequest, parse_request
from mosso.core.requests import EngineStats
from mosso.core.source import TokenSource
from mosso.server.admission import Admission
from mosso.server.callers import caller_of, one_request
from mosso.server.lifecycle import Lifecycle
from mosso.server.limits import read_body
from mosso.server.metrics import Metrics
from mosso.server.record import record_of
from mosso.server.settings import ServerSettings
from mosso.server.sse import CHAT, EventStream, Framing, while_connected

B = TypeVar("B", bound=WireRequest)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """One app's parts. The source belongs to whoever made the app."""

    source: TokenSource
    settings: ServerSettings
    lifecycle: Lifecycle
    metrics: Metrics
    api: Services
    admission: Admission

    @contextmanager
    def work(self, request: Request) -> Iterator[None]:
        """One request that uses the engine, in hand until its answer has ended. UnavailableError while
        draining, OverloadedError where it is one too many for its caller."""
        with self.lifecycle.work(), self.admission.request(caller_of(request)), one_request(request):
            yield

    async def translated(self, request: Request, kind: type[B], translate: Callable[[B, Caller], T]) -> T:
        """The request's body, parsed and translated; a long one in a thread, to keep the event loop free."""
        caller = caller_of(request)
        await self.admission.check()
        body = await read_body(request, self.settings.max_body_bytes)
        await self.admission.enter()
        if len(body) < self.settings.thread_body_bytes:
            return translate(parse_request(kind, body), caller)
        return await asyncio.to_thread(lambda: translate(parse_request(kind, body), caller))

    async def stats(self) -> EngineStats:
        """TimeoutError when the engine does not tell in time; else the source's own errors."""
        async with asyncio.timeout(self.settings.stats_seconds):
            return await self.source.stats()


async def answer(request: Request, work: Callable[[Report], Coroutine[Any, Any, bytes]]) -> Response:
    """A whole JSON answer; the work is cancelled if the client hangs up."""
    payload = await while_connected(request.receive, work(_reporter(request)))
    return Response(payload, media_type="application/json")


async def event_stream(
    request: Request,
    open_stream: Callable[[Report], AsyncGenerator[list[bytes]]],
    hold: ExitStack,
    framing: Framing = CHAT,
) -> Response:
    """A streamed answer, once its first batch is there. `hold` is closed when the stream has ended."""
    batches = open_stream(_reporter(request))
    try:
        first = await while_connected(request.receive, _first(batches))
    except BaseException:
        await batches.aclose()
        raise
    return EventStream(first, batches, hold.pop_all().close, framing)


async def _first(batches: AsyncGenerator[list[bytes]]) -> list[bytes]:
    return await anext(batches)


def _reporter(request: Request) -> Report:
    record = record_of(request.scope)

    def report(usage: Usage) -> None:
        record.usage = usage

    return report
