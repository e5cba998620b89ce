"""The constraints of the device's rows, advanced token by token, and their masks.

A constraint moves on as soon as its row's token is drawn, in threads of its own, while the next step is
computed: masks are off the critical path, and a constrained row runs in every step like any other. Its state
is a function of the row's tokens: a row that starts again after a preemption begins with those it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mosso.core.constraints import Constrainer, TokenConstraint, Turn
from mosso.core.errors import MossoError
from mosso.core.steps import RowStart, RowWork, StepPlan, ThinkingEnd

_THREADS = min(4, os.cpu_count() or 1)

Known = Callable[[int, int, int], Sequence[int]]
"""(row, first, last): the row's tokens at positions first .. last - 1; waits for those under way."""


@dataclass(frozen=True, slots=True)
class _Stand:
    """A constraint, the mask of its next token, and its slack (see TokenConstraint)."""

    constraint: TokenConstraint
    mask: bytes | None
    slack: int

    @classmethod
    def of(cls, constraint: TokenConstraint) -> _Stand:
        return cls(constraint, constraint.mask(), constraint.slack())


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the constrained rows of a batch may draw."""

    at: tuple[int, ...] = ()  # indices in the batch
    masks: tuple[bytes, ...] = ()  # parallel to `at`; see TokenConstraint.mask
    failures: tuple[tuple[int, str], ...] = ()  # (row, why): no mask can be had

    def part(self, first: int, last: int) -> Allowed:
        """Of the batch's rows first .. last - 1, counted from `first`."""
        those = [place for place, at in enumerate(self.at) if first <= at < last]
        return Allowed(
            tuple(self.at[place] - first for place in those), tuple(self.masks[place] for place in those)
        )


class ConstrainedRows:
    """Used by the sampler's thread, in the plans' order. A row's next stand depends on its last one only."""

    def __init__(self, constrainer: Constrainer, known: Known) -> None:
        self._constrainer = constrainer
        self._known = known
        self._stands: dict[int, Future[_Stand]] = {}  # by row
        self._ending: dict[int, ThinkingEnd] = {}  # rows that were free, until they next sample
        self._workers = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="masks")

    def apply(self, plan: StepPlan) -> None:
        """Note whose turns begin, and whose thinking ends."""
        for start in plan.starts:
            self._start(start)
        for end in plan.thinking_ends:
            stand = self._stands.get(end.row)
            if stand is None:
                self._ending[end.row] = end
            else:
                self._stands[end.row] = self._workers.submit(_end_thinking, stand)

    def _start(self, start: RowStart) -> None:
        """Row `start.row` is this request's from now on."""
        self._stands.pop(start.row, None)
        self._ending.pop(start.row, None)
        request = start.request
        if not request.turn.is_free:
            said = start.tokens[len(request.prompt) :]
            self._stands[start.row] = self._workers.submit(self._begin, request.turn, said)

    def hurries(self, work: Sequence[RowWork], under_way: frozenset[int]) -> bool:
        """Whether `allowed` must know the tokens of rows `under_way`, which have not been `drawn` yet."""
        return any(self._hurries(item.row) for item in work if item.row in under_way)

    def _hurries(self, row: int) -> bool:
        if row in self._ending:
            return True
        stand = self._stands.get(row)
        return stand is not None and (stand.exception() is not None or stand.result().slack < 2)

    def allowed(self, work: Sequence[RowWork]) -> Allowed:
        """For the next token of each row of `work`, which all sample; waits for masks that are not ready."""
        at, masks, failures = [], [], []
        for index, item in enumerate(work):
            if item.row in self._ending:
                self._end_free(self._ending.pop(item.row), item.start + item.count)
            stand = self._stands.get(item.row)
            if stand is None:
                continue
            try:
                mask = stand.result().mask
            except MossoError as error:
                failures.append((item.row, error.message))
                del self._stands[item.row]
                continue
            if mask is not None:
                at.append(index)
                masks.append(mask)
        return Allowed(tuple(at), tuple(masks), tuple(failures))

    def drawn(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """The rows' constraints move on by their tokens."""
        for row, token in zip(rows, tokens, strict=True):
            if (stand := self._stands.get(row)) is not None:
                self._stands[row] = self._workers.submit(_advance, stand, token)

    def holds(self, rows: Sequence[int]) -> bool:
        """Whether any of the rows has a constraint."""
        return any(row in self._stands for row in rows)

    def close(self) -> None:
        self._workers.shutdown(cancel_futures=True)

    def _end_free(self, end: ThinkingEnd, length: int) -> None:
        """A free row has one constraint from here on; it has `length` tokens."""
        first = len(end.request.prompt) + len(end.said)
        said = (*end.said, *self._known(end.row, first, length))
        self._stands[end.row] = self._workers.submit(self._begin, end.request.turn, said)

    def _begin(self, turn: Turn, said: Sequence[int]) -> _Stand:
        return _Stand.of(self._constrainer.begin(turn, said))


def _advance(before: Future[_Stand], token: int) -> _Stand:
    """Its row's last job was submitted before this one, so it has ended or is being done."""
    constraint = before.result().constraint
    constraint.consume(token)
    return _Stand.of(constraint)


def _end_thinking(before: Future[_Stand]) -> _Stand:
    constraint = before.result().constraint
    constraint.end_thinking()
    return _Stand.of(constraint)


def words(masks: Sequence[bytes], vocab_size: int) -> np.ndarray:
    """int32 [N, words] of masks in the protocol's order; token v is bit v % 32 of word v // 32."""
    size = -(-vocab_size // 32) * 4
    whole = b"".join(mask[:size].ljust(size, b"\0") for mask in masks)
    return np.frombuffer(bytearray(whole), "<i4").reshape(len(masks), -1)


def unpack(mask: bytes, vocab_size: int) -> np.ndarray:
    """bool [vocab_size] of a mask in the protocol's order; it may be longer."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=vocab_size, bitorder="little")
    return bits.view(np.bool_)
