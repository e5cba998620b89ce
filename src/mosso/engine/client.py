"""The engine as the server sees it: a TokenSource whose work happens in another process.

One child process per client, one socket pair between them. Everything here runs on one event loop and
never waits for the engine: writes go to the transport's buffer, one reader task hands out what arrives.
State is pushed, not asked for: each batch carries the engine's statistics, so that `stats` answers at once,
also while a step hangs and after the engine died.

Ownership: the client owns the process and the streams' queues; a stream lives in `_streams` from its
submission until its last event, its rejection, or its consumer's leaving, whichever is first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

from mosso.core.errors import EngineError, MossoError, RequestError, UnavailableError
from mosso.core.requests import EngineLimits, EngineStats, Request, TokenEvent
from mosso.engine.messages import (
    HEADER,
    Abort,
    Batch,
    Beat,
    EndThinking,
    Failed,
    FromEngine,
    Load,
    Progress,
    Ready,
    Rejected,
    Shutdown,
    Submit,
    ToEngine,
    decode,
    encode,
)
from mosso.engine.process import GROUP_SIGNALS
from mosso.engine.pulse import Phase, stalled
from mosso.engine.settings import EngineSettings

CLOSE_SECONDS = 5.0  # a child that has not left by then is killed

_Stream = asyncio.Queue[TokenEvent | MossoError]


class EngineLostError(EngineError):
    """The engine's process is gone, and with it everything that it worked on."""


class EngineClient:
    """Implements core's TokenSource. Made by `await EngineClient.start(settings)`."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ):
        self._process = process
        self._reader = reader
        self._writer = writer
        self._streams: dict[str, _Stream] = {}
        self._stats = EngineStats()
        self._last_step = time.monotonic()  # a batch, or the first request after idleness
        self._last_sign = self._last_step  # of life: also a beat
        self._beat = Beat(Phase.IDLE, 0.0)  # the last one, or what a batch says in its place
        self._limits: EngineLimits | None = None
        self._gone: MossoError | None = None  # why there is no engine any more
        self._receiving: asyncio.Task[None] | None = None
        self._on_death: Callable[[EngineError], None] | None = None
        self.settings: EngineSettings | None = None
        """What the engine runs with, once it is ready: device and sizes are chosen."""
        self.notes: tuple[str, ...] = ()
        """Sentences about choices the engine made for the user, for the log."""

    @classmethod
    async def start(
        cls,
        settings: EngineSettings,
        on_progress: Callable[[Progress], None] | None = None,
        on_death: Callable[[EngineError], None] | None = None,
    ) -> EngineClient:
        """Spawn the engine and wait until it is ready.

        `on_death` is called once if the engine dies later without being asked to. Raises UsageError or
        CheckpointError as the engine found them, EngineError if it dies while it loads.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = _spawn(theirs)
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:  # cancelled, before there is a client that could close it
            ours.close()
            process.kill()
            process.wait()
            raise
        client = cls(process, reader, writer)
        try:
            client._send(Load(settings))
            await client._load(on_progress)
        except BaseException:
            process.kill()
            await client.close()
            raise
        client._on_death = on_death
        client._receiving = asyncio.create_task(client._receive(), name="engine events")
        return client

    @property
    def limits(self) -> EngineLimits:
        if self._gone is not None or self._limits is None:
            raise UnavailableError("the engine is not running")
        return self._limits

    @property
    def is_alive(self) -> bool:
        return self._gone is None

    @property
    def pid(self) -> int:
        """The engine's process id, for logs and health pages."""
        return self._process.pid

    async def stream(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """See TokenSource.stream. Request ids are unique among the requests in flight."""
        if self._gone is not None:
            raise UnavailableError(f"the engine is not running: {self._gone.message}")
        if request.id in self._streams:
            raise RequestError(f"a request with id {request.id} is already running")
        if not self._streams:
            self._last_sign = self._last_step = time.monotonic()
        queue = self._streams[request.id] = asyncio.Queue()
        self._send(Submit(request))
        try:
            while True:
                item = await queue.get()
                if isinstance(item, MossoError):
                    raise item
                # Behind a dead engine's last event comes its death, and perhaps the next engine's start.
                more = not queue.empty() and self._gone is None
                yield replace(item, more=True) if more else item
                if item.finish is not None:
                    return
        finally:
            if self._streams.get(request.id) is queue:
                del self._streams[request.id]
                self._send(Abort(request.id))

    async def abort(self, request_id: str) -> None:
        """See TokenSource.abort."""
        if request_id in self._streams:
            self._send(Abort(request_id))

    async def end_thinking(self, request_id: str) -> None:
        """See TokenSource.end_thinking."""
        if request_id in self._streams:
            self._send(EndThinking(request_id))

    async def stats(self) -> EngineStats:
        """The last known state, and how long it has been so while requests are open."""
        if not self._streams or self._gone is not None:
            return replace(self._stats, seconds_since_step=0.0)
        now = time.monotonic()
        still = stalled(self._beat.phase, self._beat.still, now - self._last_sign)
        known = self._stats.running + self._stats.waiting
        return replace(
            self._stats,
            seconds_since_step=now - self._last_step,
            seconds_stalled=still,
            arriving=max(0, len(self._streams) - known),
        )

    @property
    def last_stats(self) -> EngineStats:
        """What it said last."""
        return self._stats

    def kill(self) -> None:
        """End an engine that does not listen any more; its death is then told as any other."""
        self._process.kill()

    async def close(self) -> None:
        """Stop the engine, whatever it does; return when its process is gone. May be called twice."""
        self._end(UnavailableError("the engine was stopped"))
        self._send(Shutdown())
        self._writer.close()
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.wait([self._receiving])
        await asyncio.to_thread(self._reap)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _reap(self) -> int:
        try:
            return self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _send(self, message: ToEngine) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def _next(self) -> FromEngine:
        (size,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        message = decode(await self._reader.readexactly(size))
        assert isinstance(message, FromEngine)
        return message

    async def _load(self, on_progress: Callable[[Progress], None] | None) -> None:
        while self._limits is None:
            try:
                message = await self._next()
            except (asyncio.IncompleteReadError, OSError):
                raise await self._death("while it loaded the model") from None
            match message:
                case Progress() if on_progress is not None:
                    on_progress(message)
                case Failed(error):
                    raise error
                case Ready(limits, notes, settings):
                    self._limits, self.notes, self.settings = limits, notes, settings
                case _:
                    pass

    async def _receive(self) -> None:
        """Hand out what the engine says until it says no more."""
        failure: MossoError | None = None
        try:
            while True:
                match await self._next():
                    case Batch(events, stats):
                        self._stats, self._beat = (
                            stats,
                            Beat(Phase.STEP if stats.running else Phase.IDLE, 0.0),
                        )
                        self._last_sign = self._last_step = time.monotonic()
                        for event in events:
                            self._deliver(event.request_id, event, last=event.finish is not None)
                    case Beat() as beat:
                        self._beat, self._last_sign = beat, time.monotonic()
                    case Rejected(request_id, error):
                        self._deliver(request_id, error, last=True)
                    case Failed(error):
                        failure = error
                    case _:
                        pass
        except (asyncio.IncompleteReadError, OSError):
            died = await self._death("", failure)
        if self._on_death is not None:
            self._on_death(died)
        self._end(died)

    def _deliver(self, request_id: str, item: TokenEvent | MossoError, *, last: bool) -> None:
        """A stream whose consumer left is no longer here: what still comes for it is dropped."""
        queue = self._streams.pop(request_id, None) if last else self._streams.get(request_id)
        if queue is not None:
            queue.put_nowait(item)

    async def _death(self, when: str, failure: MossoError | None = None) -> EngineLostError:
        """The connection ended though nobody asked: say why, in words."""
        if failure is not None:
            return EngineLostError(failure.message)
        status = await asyncio.to_thread(self._reap)
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return EngineLostError(f"the engine process {how} {when}".rstrip())

    def _end(self, error: MossoError) -> None:
        """No engine from now on: every open stream raises `error`. The first reason stays."""
        if self._gone is None:
            self._gone = error
        streams, self._streams = self._streams, {}
        for queue in streams.values():
            queue.put_nowait(type(error)(error.message))  # one each: a raised error holds its own traceback


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A fresh interpreter that runs `mosso.engine.process` on its end of the socket pair.

    -P keeps the working directory out of its module path: a user's `queue.py` must not be imported. Signals
    that a terminal sends to all of us wait until it ignores them.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)  # it inherits the mask
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", "mosso.engine.process", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
