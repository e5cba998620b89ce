"""What a benchmark of one kernel is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one shape."""

    name: str
    floor: float  # seconds that the memory or the arithmetic of one `run` takes at best
    run: Callable[[], object]
