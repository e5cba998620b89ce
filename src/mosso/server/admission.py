"""Whether one more request would wait too long for its first token; it is then refused while that is cheap.

The engine says how much work it has, whose it is and how fast it works (EngineStats); what is on its way to
the engine is counted here. The estimate follows the scheduler: better priorities first, then turns between
tenants. So one who asks for too much is refused, and others are not because of him.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mosso.api.caller import Caller
from mosso.core.errors import MossoError, OverloadedError
from mosso.core.requests import EngineLimits, EngineStats, QueueLoad, Request, TokenEvent
from mosso.core.source import TokenSource

_ticket: ContextVar[Ticket | None] = ContextVar("ticket", default=None)


class Admission:
    """A TokenSource before `source`, which stays the caller's; and the door for requests.

    A request in hand has a ticket, from `request` on, for all that is done for it: `check` may refuse it,
    `enter` refuses or counts it, and its first stream takes it out of the count, as the engine counts it from
    there. All of it happens on one event loop.
    """

    def __init__(self, source: TokenSource, max_queue_seconds: float) -> None:
        self._source = source
        self._max_queue_seconds = max_queue_seconds
        self._arriving = 0  # tickets of requests that were let in and have not reached the engine

    @contextmanager
    def request(self, caller: Caller) -> Iterator[None]:
        """One request of `caller` in hand."""
        ticket = Ticket(self, caller)
        _ticket.set(ticket)
        try:
            yield
        finally:
            ticket.arrived()

    async def check(self) -> None:
        """OverloadedError if the request in hand, if there is one, would wait too long."""
        if (ticket := _ticket.get()) is not None:
            await self._check(ticket.caller)

    async def enter(self) -> None:
        """The same; and from here on it counts for those that come after it."""
        if (ticket := _ticket.get()) is not None:
            await self._check(ticket.caller)
            ticket.enter()

    async def _check(self, caller: Caller) -> None:
        try:
            stats = await self._source.stats()
        except MossoError:
            return  # no engine now: whoever asks it for tokens is told why
        wait = queue_seconds(stats, caller, self._arriving)
        if wait > self._max_queue_seconds:
            raise OverloadedError(
                f"The server is busy: an answer would begin in about {wait:.1f} seconds, and requests wait "
                f"{self._max_queue_seconds:g} at most.",
                retry_after=wait - self._max_queue_seconds,
            )

    def entered(self, change: int) -> None:
        """So many more requests are on their way to the engine."""
        self._arriving += change

    # TokenSource

    @property
    def limits(self) -> EngineLimits:
        return self._source.limits

    def stream(self, request: Request) -> AsyncIterator[TokenEvent]:
        if (ticket := _ticket.get()) is not None:
            ticket.arrived()
        return self._source.stream(request)

    async def abort(self, request_id: str) -> None:
        await self._source.abort(request_id)

    async def end_thinking(self, request_id: str) -> None:
        await self._source.end_thinking(request_id)

    async def stats(self) -> EngineStats:
        return await self._source.stats()

    async def close(self) -> None:
        await self._source.close()


class Ticket:
    """A client's request on its way to the engine."""

    def __init__(self, admission: Admission, caller: Caller) -> None:
        self.caller = caller
        self._admission = admission
        self._entered = False

    def enter(self) -> None:
        if not self._entered:
            self._entered = True
            self._admission.entered(1)

    def arrived(self) -> None:
        """It has reached the engine, or it will not."""
        if self._entered:
            self._entered = False
            self._admission.entered(-1)


def queue_seconds(stats: EngineStats, caller: Caller, arriving: int) -> float:
    """How long a request of `caller` would wait for a row; 0 where one is free, and while nothing is known.

    `arriving`: requests of anybody that will be before it and that the engine has not seen.
    """
    loads = [load for load in stats.loads if load.priority <= caller.priority]
    own = next((load.waiting for load in loads if load[:2] == (caller.priority, caller.scope)), 0)
    before, tokens = stats.arriving + arriving, 0.0
    for load in loads:
        turns = min(load.waiting, _turns(load, caller, own))
        before += turns
        tokens += load.prompt_tokens * turns / max(1, load.waiting)
    free = max(0, stats.row_limit - sum(load.running for load in loads))
    if before < free:
        return 0.0
    answers = before - free + 1  # that must end: each frees a row, the last one the caller's
    return answers * stats.answer_seconds + tokens * stats.prompt_token_seconds


def _turns(load: QueueLoad, caller: Caller, own: int) -> int:
    """How many of the load's waiting requests are served before the next one of the caller, who has `own`."""
    if load.priority < caller.priority:
        return load.waiting
    return own if load.tenant == caller.scope else own + 1
