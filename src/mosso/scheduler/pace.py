"""How long steps take, learned from those that ended: what a stream waits for its next token, by rows.

The time of a step depends on the machine, the model and what shares both, so nothing is assumed of it. All
figures are averages that forget. A number of rows that has not run for long is unknown again, and is tried.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

FORGET_SECONDS = 30.0  # a number of rows that has not run for so long may take another time by now
_LATEST = 0.02  # weight of the latest step among those with as many rows, once there are many
_ALONE = 31  # steps of a stream alone, the latest; their median is the measure, as it knows no outliers
_DECAY = 0.98  # of what is known of prompts and answers, at each new one


class StepSize(NamedTuple):
    """How much a step computes."""

    rows: int
    singles: int  # rows with one position: most are streams that get their next token
    positions: int  # of all rows


class Pace:
    """Averages over steps and over ended requests; times in seconds of `clock`."""

    def __init__(self, max_rows: int, max_slowdown: float | None, clock: Callable[[], float]) -> None:
        """max_slowdown: see SchedulerConfig."""
        self._clock = clock
        self._max_slowdown = max_slowdown
        self._sizes = _sizes(max_rows)
        self._gaps = [
            _Average() for _ in self._sizes
        ]  # of steps that gave at least one stream its next token
        self._alone: deque[float] = deque(maxlen=_ALONE)
        self._prompts = _Ratio()  # seconds a position, of steps that computed stretches
        self._answers = _Ratio()  # tokens a request

    def step_ended(self, size: StepSize, seconds: float) -> None:
        if size.rows == size.singles == 1:
            self._alone.append(seconds)
        if size.singles:
            self._gaps[bisect_left(self._sizes, size.rows)].add(seconds, self._clock())
        if size.singles < size.rows:
            self._prompts.add(seconds, size.positions)

    def answered(self, tokens: int) -> None:
        """A request has ended, with so many tokens."""
        self._answers.add(tokens, 1)

    @property
    def prompt_token_seconds(self) -> float:
        """What a token of a prompt takes; 0 while nothing is known."""
        return self._prompts.value

    @property
    def answer_seconds(self) -> float:
        """The engine's time for an average answer while all rows run; 0 while nothing is known."""
        rows = self.row_limit()
        return self._answers.value * _at(rows, self._known()) / rows

    def row_limit(self) -> int:
        """Rows that may run at once: so many that a stream is slowed down by max_slowdown at most.

        One, until it is known how fast a stream alone is; then also the next larger number than those that
        are known: it will be known soon.
        """
        if self._max_slowdown is None:
            return self._sizes[-1]
        known = self._known()
        if not known or known[0][0] > 1:
            return 1
        bound = self._max_slowdown * median(self._alone)
        limit = 1
        for smaller, rows in zip(self._sizes, self._sizes[1:], strict=False):
            if smaller > known[-1][0] or _at(rows, known) > bound:
                break
            limit = rows
        return limit

    def _known(self) -> list[tuple[int, float]]:
        """Rows, ascending, with a step's seconds. A stream alone is not forgotten: it is the measure."""
        now = self._clock()
        gaps = zip(self._sizes, self._gaps, strict=True)
        return [(rows, gap.value) for rows, gap in gaps if gap.known(now) or (rows == 1 and gap.value)]


def _sizes(max_rows: int) -> list[int]:
    """Numbers of rows that are told apart: 1 to 8, then each a fifth larger; the last is max_rows."""
    sizes, rows = [], 1
    while rows < max_rows:
        sizes.append(rows)
        rows = max(rows + 1, rows * 6 // 5)
    return [*sizes, max_rows]


def _at(rows: int, known: list[tuple[int, float]]) -> float:
    """On the line between two known numbers of rows; beyond them that of the nearest; 0 without any."""
    at = bisect_left(known, (rows,))
    if at == len(known):
        return known[-1][1] if known else 0.0
    if at == 0 or known[at][0] == rows:
        return known[at][1]
    (low, below), (high, above) = known[at - 1], known[at]
    return below + (above - below) * (rows - low) / (high - low)


class _Average:
    """A mean at first, then one that follows the latest values."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0
        self._at = 0.0

    def add(self, value: float, now: float) -> None:
        if not self.known(now):
            self._count = 0
        self._count += 1
        self.value += max(1 / self._count, _LATEST) * (value - self.value)
        self._at = now

    def known(self, now: float) -> bool:
        return self._count > 0 and now - self._at <= FORGET_SECONDS


class _Ratio:
    """Of two sums that forget; 0 while they are empty."""

    def __init__(self) -> None:
        self._over = self._under = 0.0

    def add(self, over: float, under: float) -> None:
        self._over = _DECAY * self._over + over
        self._under = _DECAY * self._under + under

    @property
    def value(self) -> float:
        return self._over / self._under if self._under else 0.0
