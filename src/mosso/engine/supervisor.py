"""An engine that outlives its process: a TokenSource over EngineClients, one after another.

When the process dies it is started again, and what it was doing goes on: each request in flight is submitted
anew with the tokens that its reader has been told (`Request.generated`). To the engine that is a request that
was preempted: positions, the sampling noise, penalties, limits and constraints are functions of a request's
tokens, so the stream continues as if nothing had happened. A reader notices a pause and nothing else. In the
same way requests go on that were in a step which failed while the engine lives.

Bounds: a request lives through `replays` deaths and one failed step, for it may be their cause. The engine is
started again at most `restarts` times in `window` seconds, with growing pauses; after that the source is gone
for good, and `on_death` is told: whoever supervises this process must help. While no engine runs, `limits`
raises UnavailableError, so new requests are refused; those in flight wait.

Ownership: the supervisor owns the latest client and the task that keeps it. A stream owns its story.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from mosso.core.counting import counted
from mosso.core.errors import EngineError, MossoError, OverloadedError, RequestError, UnavailableError
from mosso.core.requests import EngineLimits, EngineStats, FinishReason, Request, TokenEvent
from mosso.core.seeding import with_seed
from mosso.engine.client import EngineClient, EngineLostError
from mosso.engine.messages import Progress
from mosso.engine.settings import EngineSettings

logger = logging.getLogger("mosso.engine")

WATCH_SECONDS = 0.5  # between two looks at whether the engine still moves


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Times in seconds."""

    restarts: int = 10  # within `window`: one death more and the engine stays down
    window: float = 120.0
    pause: float = 0.5  # before the second restart in a row; it doubles with each one that follows
    longest_pause: float = 10.0
    settled: float = 10.0  # an engine that lived for so long ends the row
    replays: int = 3  # deaths that one request may live through
    stalled: float | None = 30.0  # an engine that has not moved for so long, while work waits, is killed


class Supervisor:
    """Implements core's TokenSource. Made by `await Supervisor.start(settings)`."""

    def __init__(
        self,
        settings: EngineSettings,
        policy: RestartPolicy,
        on_progress: Callable[[Progress], None] | None,
        on_death: Callable[[EngineError], None] | None,
    ) -> None:
        self._asked = settings
        self._policy = policy
        self._on_progress = on_progress
        self._on_death = on_death
        self._client: EngineClient | None = None  # None: no engine runs
        self._latest: EngineClient | None = None
        self._death: asyncio.Future[EngineError] | None = None  # of the client of the moment
        self._gone: MossoError | None = None  # why there will be no engine any more
        self._changed = asyncio.Event()  # set while there is an engine, or none will ever be
        self._keeping: asyncio.Task[None] | None = None
        self._open: set[str] = set()  # ids of the streams in hand
        self._aborted: set[str] = set()  # of these, those that somebody wants to end
        self._thought: set[str] = set()  # and those whose thinking shall end
        self._past = EngineStats()  # what the engines that died had counted
        self._restarted: deque[float] = deque()  # when, within the window
        self._in_a_row = 0  # restarts of engines that did not start, or did not live long
        self._ready_at = 0.0
        self.settings: EngineSettings | None = None
        """As EngineClient.settings, of the latest engine."""
        self.notes: tuple[str, ...] = ()
        """As EngineClient.notes, of the latest engine."""

    @classmethod
    async def start(
        cls,
        settings: EngineSettings,
        on_progress: Callable[[Progress], None] | None = None,
        on_death: Callable[[EngineError], None] | None = None,
        policy: RestartPolicy | None = None,
    ) -> Supervisor:
        """Start the first engine and wait until it is ready; raises as EngineClient.start does.

        `on_death` is called once if the engine dies and is not started again.
        """
        supervisor = cls(settings, policy or RestartPolicy(), on_progress, on_death)
        await supervisor._start()
        supervisor._keeping = asyncio.create_task(supervisor._keep(), name="engine supervisor")
        return supervisor

    # ---- TokenSource

    @property
    def limits(self) -> EngineLimits:
        if self._client is None:
            raise self._gone_error() or UnavailableError("the engine is being started again")
        return self._client.limits

    async def stream(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """See TokenSource.stream: EngineError when the engine died too often while it had this request."""
        if request.id in self._open:
            raise RequestError(f"a request with id {request.id} is already running")
        self._open.add(request.id)
        story = _Story(with_seed(request))
        try:
            async with aclosing(self._told(story)) as events:
                async for event in events:
                    yield story.tell(event)
        finally:
            for ids in (self._open, self._aborted, self._thought):
                ids.discard(request.id)

    async def abort(self, request_id: str) -> None:
        """See TokenSource.abort. Where no engine runs, the last event comes when the next one does."""
        if request_id in self._open:
            self._aborted.add(request_id)
            if self._client is not None:
                await self._client.abort(request_id)

    async def end_thinking(self, request_id: str) -> None:
        """See TokenSource.end_thinking."""
        if request_id in self._open:
            self._thought.add(request_id)
            if self._client is not None:
                await self._client.end_thinking(request_id)

    async def stats(self) -> EngineStats:
        """Counters go on over deaths. While no engine runs, the requests in hand wait."""
        if self._client is None:
            return replace(self._past, waiting=len(self._open))
        return _sum(self._past, await self._client.stats())

    async def close(self) -> None:
        """See TokenSource.close. May be called twice."""
        self._end(UnavailableError("the engine was stopped"))
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        self._client = None
        if self._latest is not None:  # perhaps dead, and the keeper was kept from closing it
            await self._latest.close()

    # ---- for logs and whoever owns it

    @property
    def is_alive(self) -> bool:
        """There is an engine, or there will be."""
        return self._gone is None

    @property
    def pid(self) -> int | None:
        """The engine's process id, None while there is none."""
        return None if self._client is None else self._client.pid

    # ---- one request

    async def _told(self, story: _Story) -> AsyncGenerator[TokenEvent, None]:
        """Events of one engine after another, until one is the last."""
        lived, stumbled = 0, False
        while True:
            client = await self._running()
            if story.id in self._aborted:
                yield TokenEvent(story.id, finish=FinishReason.ABORT)
                return
            try:
                async with aclosing(
                    client.stream(story.rest(ends_thinking=story.id in self._thought))
                ) as events:
                    async for event in events:
                        if event.lost and not stumbled:
                            break
                        yield event
                    else:
                        return
                stumbled = True
                self._past = replace(self._past, replays=self._past.replays + 1)
            except EngineLostError as error:
                lived += 1
                if lived > self._policy.replays:
                    raise EngineError(f"{error.message}, for the {lived}. time with this request") from None
                self._past = replace(self._past, replays=self._past.replays + 1)
            except OverloadedError as error:
                if not lived:
                    raise
                await asyncio.sleep(error.retry_after or 1.0)  # new ones are refused: it had its place
            except RequestError as error:
                if not lived:
                    raise
                raise EngineError(f"the restarted engine cannot go on with it: {error.message}") from None

    async def _running(self) -> EngineClient:
        await self._changed.wait()
        if (error := self._gone_error()) is not None:
            raise error
        assert self._client is not None
        return self._client

    def _gone_error(self) -> MossoError | None:
        """One each: a raised error holds its own traceback."""
        return None if self._gone is None else type(self._gone)(self._gone.message)

    # ---- the engine

    async def _start(self) -> None:
        self._death = asyncio.get_running_loop().create_future()
        self._client = self._latest = await EngineClient.start(self._asked, self._on_progress, self._died)
        self.settings, self.notes = self._client.settings, self._client.notes
        self._ready_at = time.monotonic()
        self._changed.set()

    def _died(self, error: EngineError) -> None:
        """At once, before any reader of its streams is told: nobody meets a dead client."""
        assert self._client is not None
        assert self._death is not None
        self._changed.clear()
        self._past = _without_state(_sum(self._past, self._client.last_stats))
        self._client = None
        self._death.set_result(error)

    async def _keep(self) -> None:
        """Start an engine whenever the last one has died, until that happens too often."""
        while True:
            error = await self._end_of_engine()
            logger.error("%s", error.message)
            if time.monotonic() - self._ready_at >= self._policy.settled:
                self._in_a_row = 0
            try:
                await self._start_again(error)
            except EngineError as final:
                self._end(final)
                if self._on_death is not None:
                    self._on_death(final)
                return

    async def _end_of_engine(self) -> EngineError:
        """Wait for the engine's death, or bring it about where the engine hangs; what it counted is kept."""
        client, death = self._latest, self._death
        assert client is not None
        assert death is not None
        looks = 0  # in a row that found it stalled: at the first one this process itself may just have woken
        while not death.done():
            await asyncio.wait([death], timeout=WATCH_SECONDS)
            stalled = (await client.stats()).seconds_stalled
            looks = looks + 1 if self._policy.stalled is not None and stalled > self._policy.stalled else 0
            if looks == 2:
                logger.error("the engine has not moved for %.0f s while work waits: it is killed", stalled)
                client.kill()
                await death
        await client.close()
        return death.result()

    async def _start_again(self, error: MossoError) -> None:
        """Raises EngineError when it was tried too often."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(self._next_pause(error))
            logger.warning("starting the engine again")
            self._past = replace(self._past, restarts=self._past.restarts + 1)
            try:
                await self._start()
                logger.warning("the engine serves again, after %.1f s", time.monotonic() - began)
                return
            except MossoError as failure:
                error = failure
                logger.error("the engine does not start: %s", failure.message)

    def _next_pause(self, error: MossoError) -> float:
        now, policy = time.monotonic(), self._policy
        while self._restarted and self._restarted[0] < now - policy.window:
            self._restarted.popleft()
        tries = len(self._restarted)
        if tries >= policy.restarts:
            raise EngineError(
                f"{error.message}; it was started again {counted(tries, 'time')} in "
                f"{policy.window:.0f} s and stays down"
            )
        self._restarted.append(now)
        self._in_a_row += 1
        return (
            min(policy.pause * 2 ** (self._in_a_row - 2), policy.longest_pause) if self._in_a_row > 1 else 0.0
        )

    def _end(self, error: MossoError) -> None:
        """The first reason stays."""
        if self._gone is None:
            self._gone = error
        self._changed.set()


class _Story:
    """One request and what its reader has been told of it."""

    def __init__(self, request: Request) -> None:
        self.id = request.id
        self._request = request
        self._tokens = list(request.generated)
        self._begun = False

    def rest(self, *, ends_thinking: bool) -> Request:
        """What is still to be generated. Thinking that was ended by hand stays ended."""
        request = replace(self._request, generated=tuple(self._tokens))
        return replace(request, thinking_budget=0) if ends_thinking else request

    def tell(self, event: TokenEvent) -> TokenEvent:
        """`event` for the reader: the prompt's cached tokens are what the first engine found."""
        self._tokens += event.tokens
        begun, self._begun = self._begun, True
        if begun and (event.cached_tokens or event.queued_seconds):
            return replace(event, cached_tokens=0, queued_seconds=0.0)
        return event


_GROWING = (
    "steps",
    "prompt_tokens",
    "cached_prompt_tokens",
    "generated_tokens",
    "preemptions",
    "restarts",
    "replays",
)
_KEPT = ("finished", "step_seconds", "step_tokens")


def _sum(past: EngineStats, now: EngineStats) -> EngineStats:
    """The state of `now`, with the counters of both."""
    counted: dict[str, Any] = {name: getattr(past, name) + getattr(now, name) for name in _GROWING}
    counted["step_seconds"] = past.step_seconds + now.step_seconds
    counted["step_tokens"] = past.step_tokens + now.step_tokens
    counted["finished"] = {
        reason: past.finished.get(reason, 0) + now.finished.get(reason, 0)
        for reason in past.finished | now.finished
    }
    return replace(now, **counted)


def _without_state(stats: EngineStats) -> EngineStats:
    """Of an engine that is gone: only what it had counted."""
    return EngineStats(**{name: getattr(stats, name) for name in (*_GROWING, *_KEPT)})
