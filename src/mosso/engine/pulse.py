"""How the engine tells a long step from a step that will never end.

The threads that work mark their progress here: each turn of the loop and, on the CPU, each half of a layer.
One more thread tells the client twice a second what is being done and how long ago the last mark was. So

- a step that hangs shows as marks that grow old, however alive the process is;
- a process that is stopped, or that holds the interpreter for ever, shows as silence;
- a long prefill on the CPU goes on making marks; on a GPU no step takes seconds;
- what is known to take its time without marks, compiling a kernel, says so and is given COMPILE_SECONDS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

BEAT_SECONDS = 0.5
COMPILE_SECONDS = 600.0


class Phase(StrEnum):
    IDLE = "idle"  # nothing to do
    STEP = "step"
    COMPILING = "compiling"


class Pulse:
    """Written by the engine's threads, read by the one that beats. A mark is one attribute's write."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase = Phase.IDLE
        self._moved = clock()

    def mark(self) -> None:
        """The work has come on."""
        self._moved = self._clock()

    def enter(self, phase: Phase) -> None:
        self._phase = phase
        self._moved = self._clock()

    def compiling(self, begins: bool) -> None:
        """A step compiles a kernel, or has done so. One that fails at it is over with the next turn."""
        self.enter(Phase.COMPILING if begins else Phase.STEP)

    def read(self) -> tuple[Phase, float]:
        """What is being done, and the seconds since the last mark."""
        return self._phase, max(0.0, self._clock() - self._moved)


def stalled(phase: Phase, still: float, silence: float) -> float:
    """Seconds for which an engine with work has not moved.

    `phase` and `still` are those of its last beat, or (STEP, 0) where it told of a step since; `silence` is
    the time since it said anything, or since work came.
    """
    if phase is Phase.STEP:
        return still + silence
    if phase is Phase.COMPILING and still + silence > COMPILE_SECONDS:
        return still + silence - COMPILE_SECONDS
    return silence
