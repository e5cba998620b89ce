"""The engine in this process, turned by hand: no socket, no second process, and a profile where wanted."""

from __future__ import annotations

import asyncio
import gc
import queue
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mosso.bench.engine import Arrivals, check_length
from mosso.bench.trace import Trace, read_trace
from mosso.core.errors import EngineError, UsageError
from mosso.core.requests import FinishReason, Request
from mosso.engine.build import build_loop
from mosso.engine.messages import Batch, FromEngine, Rejected, Submit, ToEngine
from mosso.engine.settings import EngineSettings

SETTLE = 8  # decode steps with all rows before a profile begins


class InlineEngine:
    """One engine loop and what it says. Not thread-safe."""

    def __init__(self, settings: EngineSettings) -> None:
        self._inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
        self._times: dict[str, list[float]] = {}
        self._open: set[str] = set()
        self._loop, ready = build_loop(settings, self._inbox, self._take)
        self.limits, self.notes, self.settings = ready.limits, ready.notes, ready.settings
        gc.collect()
        gc.freeze()  # as the engine's own process does

    async def drive(self, requests: Sequence[Request]) -> Arrivals:
        """See bench.engine.Drive."""
        start = self._submit(requests)
        while self._open:
            self._loop.turn()
            await asyncio.sleep(0)  # where a Ctrl-C ends it
        self._settle()
        for request in requests:
            check_length(request, self._times[request.id])
        return Arrivals(start, [self._times[request.id] for request in requests])

    def profile(self, requests: Sequence[Request], file: Path, steps: int = 20) -> Trace:
        """Writes a trace of `steps` decode steps with all rows to `file`, in the format of Chrome's tracing.

        Raises UsageError where the requests end too early for that many.
        """
        self._submit(requests)
        while self._open and not all(len(times) >= SETTLE for times in self._times.values()):
            self._loop.turn()
        with torch.profiler.profile(activities=self._activities()) as profiler:
            for _ in range(steps):
                if len(self._open) == len(requests):
                    self._loop.turn()
        whole = len(self._open) == len(requests)
        while self._open:
            self._loop.turn()
        self._settle()
        if not whole:
            raise UsageError(f"--output is too small for a profile of {steps} steps with all rows")
        profiler.export_chrome_trace(str(file))
        return read_trace(file)

    def _activities(self) -> list[torch.profiler.ProfilerActivity]:
        kinds = torch.profiler.ProfilerActivity
        return [kinds.CPU, kinds.CUDA] if torch.cuda.is_available() else [kinds.CPU]

    def _submit(self, requests: Sequence[Request]) -> float:
        self._times = {request.id: [] for request in requests}
        self._open = set(self._times)
        start = time.perf_counter()
        for request in requests:
            self._inbox.put(Submit(request))
        return start

    def _settle(self) -> None:
        """Finish the step that was launched before the last request's end was known."""
        while not self._loop.idle:
            self._loop.turn()

    def _take(self, message: FromEngine) -> None:
        match message:
            case Batch(events, _):
                now = time.perf_counter()
                for event in events:
                    self._times[event.request_id].extend([now] * len(event.tokens))
                    if event.finish is FinishReason.ERROR:
                        raise EngineError(event.error or "the engine failed a request")
                    if event.finish is not None:
                        self._open.discard(event.request_id)
            case Rejected(_, error):
                raise error
            case _:
                pass
