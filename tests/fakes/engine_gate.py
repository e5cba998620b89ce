"""Engines of real servers that a test holds up."""

from __future__ import annotations

from pathlib import Path

import pytest
from start_code import ENGINE, at_start

GATE = """
import os, time
while os.path.exists({starts!r}):
    time.sleep(0.02)
import mosso.model.paged as paged
forward = paged.forward
def slow(*args, **kwargs):
    end = time.monotonic() + 0.25
    while os.path.exists({steps!r}) and time.monotonic() < end:
        time.sleep(0.01)
    return forward(*args, **kwargs)
paged.forward = slow
"""


class Gate:
    """Holds up the engines of servers that were started with it: no answer and no restart is over before a
    test has done what it does meanwhile, though a busy machine lets it stand still for long."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Processes that start while the patch lasts go through it."""
        self._starts, self._steps = folder / "starts", folder / "steps"
        code = GATE.format(starts=str(self._starts), steps=str(self._steps))
        monkeypatch.setenv("PYTHONPATH", at_start(folder, ENGINE, code))

    def hold_starts(self) -> None:
        """No engine starts."""
        self._starts.touch()

    def slow_steps(self) -> None:
        """A step takes a quarter of a second."""
        self._steps.touch()

    def open(self) -> None:
        for file in (self._starts, self._steps):
            file.unlink(missing_ok=True)
