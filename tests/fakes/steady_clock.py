"""A clock for what must happen within some seconds, on a machine that may let this process stand still."""

from __future__ import annotations

import time

LONGEST = 0.25  # seconds that a look at it may find gone; what else went by was a pause


class SteadyClock:
    """Takes the place of a module's `time`: monotonic and perf_counter, on which pauses are short."""

    process_time = staticmethod(time.process_time)

    def __init__(self) -> None:
        self._now, self._last = 0.0, time.monotonic()

    def monotonic(self) -> float:
        last, self._last = self._last, time.monotonic()
        self._now += min(self._last - last, LONGEST)
        return self._now

    perf_counter = monotonic
