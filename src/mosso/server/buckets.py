"""So much a minute, for one who may come in bursts."""

from __future__ import annotations

import math
from collections.abc import Callable

MINUTE = 60.0
_DUST = 1e-6  # what rounding may leave missing


class TokenBucket:
    """Holds at most `per_minute`, fills evenly by as much in a minute, and is full at first.

    An amount may be taken before its true size is known and be put right later. The level may fall below
    zero by that; nobody should take again before it has filled. Whoever asks `wait` before each `take`, and
    never puts anything right, takes in any s seconds at most per_minute * (1 + s / 60). `clock`: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled_at = clock()

    @property
    def level(self) -> float:
        """What can be taken now; below zero: what is owed."""
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._filled_at) * self.per_minute / MINUTE)
        self._filled_at = now
        return self._level

    def wait(self, amount: float) -> float:
        """Seconds until `amount` can be taken: 0 is now, infinity is never, as the bucket is too small."""
        if amount > self.per_minute:
            return math.inf
        missing = amount - self.level
        return 0.0 if missing <= _DUST else missing * MINUTE / self.per_minute

    def take(self, amount: float) -> None:
        """Take it, whatever is there; a negative amount puts back."""
        self._level = min(self.per_minute, self.level - amount)

    @property
    def seconds_to_full(self) -> float:
        return (self.per_minute - self.level) * MINUTE / self.per_minute

    def resize(self, per_minute: int) -> None:
        """Another limit from now on. What was taken of the old one stays taken."""
        taken = self.per_minute - self.level
        self.per_minute = per_minute
        self._level = per_minute - taken
