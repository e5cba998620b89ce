"""A step plan while it is being made, and what is remembered of it until its result comes."""

from __future__ import annotations

from dataclasses import dataclass, field

from mosso.core.steps import RowStart, RowWork, StepPlan, ThinkingEnd
from mosso.scheduler.pace import StepSize
from mosso.scheduler.sequence import Sequence


@dataclass(slots=True)
class Draft:
    """Work can be taken back until the plan is complete: sequences do not know of it before."""

    step: int
    budget: int  # positions still to give away
    starts: list[RowStart] = field(default_factory=list)
    work: dict[Sequence, RowWork] = field(default_factory=dict)
    computing: set[bytes] = field(default_factory=set)  # keys of prompt pages that this step completes
    preempted: set[Sequence] = field(default_factory=set)  # they do not come back in this plan
    background: int = 0  # rows of sequences that use idle capacity only
    admitting: bool = True  # until the best waiting sequence had to go on waiting

    def put(self, sequence: Sequence, work: RowWork) -> None:
        self.work[sequence] = work
        self.budget -= work.count
        self.background += sequence.is_background

    def preempt(self, sequence: Sequence) -> None:
        """Take back the work of a sequence that loses its row. It is never one that this plan starts:
        starts are made best first, and only a better sequence takes rows and pages away."""
        assert all(start.row != sequence.row for start in self.starts)
        self.preempted.add(sequence)
        if (work := self.work.pop(sequence, None)) is not None:
            self.budget += work.count
            self.background -= sequence.is_background

    @property
    def size(self) -> StepSize:
        counts = [work.count for work in self.work.values()]
        return StepSize(len(counts), counts.count(1), sum(counts))

    def plan(self, releases: tuple[int, ...], thinking_ends: tuple[ThinkingEnd, ...] = ()) -> StepPlan:
        work = tuple(self.work.values())
        return StepPlan(self.step, releases, tuple(self.starts), work, thinking_ends)


@dataclass(frozen=True, slots=True)
class Flight:
    """A planned step whose result has not come. Results belong to sequences, not to rows: a row may have
    been given to another sequence by then."""

    step: int
    planned_at: float
    size: StepSize
    rows: tuple[int, ...]  # that sample, in the plan's order
    sequences: tuple[Sequence, ...]  # parallel to rows
