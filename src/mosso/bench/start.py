"""From the command to the first token: where a start's seconds go.

Phases are the stages that the engine tells of itself while it loads; before the first one lies what the
command and the engine's process import.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from mosso.core.requests import Request, SamplingParams
from mosso.engine.client import EngineClient
from mosso.engine.messages import Progress
from mosso.engine.settings import EngineSettings

PROMPT = tuple(range(1, 33))


async def measure(settings: EngineSettings) -> tuple[dict[str, float], tuple[str, ...]]:
    """Seconds of each phase, in order, and what the engine notes. The last phase ends with a token."""
    phases = _Phases("imports", before=_process_age())
    client = await EngineClient.start(settings, on_progress=phases.told)
    try:
        phases.enter("first token")
        request = Request("bench-start", PROMPT, SamplingParams(max_tokens=1))
        async for _ in client.stream(request):
            pass
        return phases.end(), client.notes
    finally:
        await client.close()


class _Phases:
    """Adds up the time between one stage and the next."""

    def __init__(self, first: str, before: float) -> None:
        self._seconds = {first: before}
        self._stage = first
        self._since = time.perf_counter()

    def told(self, progress: Progress) -> None:
        self.enter(progress.stage)

    def enter(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def end(self) -> dict[str, float]:
        self.enter(self._stage)
        return self._seconds


def _process_age() -> float:
    """Seconds since this process began, where the system tells (Linux); else 0."""
    try:
        started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0
