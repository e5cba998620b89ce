"""Sequences in the order they are served."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from operator import attrgetter

from mosso.scheduler.sequence import Sequence

_rank = attrgetter("rank")


class Ranked:
    """Sequences sorted by rank: by priority, then by arrival.

    A preempted sequence keeps its arrival, so that it comes back at the head of its priority.
    """

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    @property
    def best(self) -> Sequence | None:
        return self._sequences[0] if self._sequences else None

    @property
    def worst(self) -> Sequence | None:
        return self._sequences[-1] if self._sequences else None

    def add(self, sequence: Sequence) -> None:
        insort(self._sequences, sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        at = bisect_left(self._sequences, sequence.rank, key=_rank)
        assert self._sequences[at] is sequence
        del self._sequences[at]
