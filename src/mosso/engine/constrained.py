"""The constraints of the device's rows, advanced token by token, and their masks.

A constraint moves on as soon as its row's token is known, while the next step is computed: masks are off the
critical path, and a constrained row runs in every step like any other. Its state is a function of the row's
tokens: a row that starts again after a preemption begins with those it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from mosso.core.constraints import Constrainer, Mask, TokenConstraint, Turn
from mosso.core.errors import MossoError
from mosso.core.steps import RowStart, RowWork, StepPlan, ThinkingEnd

Known = Callable[[int, int, int], Sequence[int]]
"""(row, first, last): the row's tokens at positions first .. last - 1; waits for those under way."""


@dataclass(frozen=True, slots=True)
class _Stand:
    """A constraint, the mask of its next token, and its slack (see TokenConstraint)."""

    constraint: TokenConstraint
    mask: Mask | None
    slack: int

    @classmethod
    def of(cls, constraint: TokenConstraint) -> _Stand:
        return cls(constraint, constraint.mask(), constraint.slack())


_Stands = dict[int, _Stand | MossoError]  # by row: what one job made
_Move = tuple[int, int]  # a row and its token


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the constrained rows of a batch may draw."""

    at: tuple[int, ...] = ()  # indices in the batch
    masks: tuple[Mask, ...] = ()  # parallel to `at`; see TokenConstraint.mask
    failures: tuple[tuple[int, str], ...] = ()  # (row, why): no mask can be had

    def part(self, first: int, last: int) -> Allowed:
        """Of the batch's rows first .. last - 1, counted from `first`."""
        those = [place for place, at in enumerate(self.at) if first <= at < last]
        return Allowed(
            tuple(self.at[place] - first for place in those), tuple(self.masks[place] for place in those)
        )


class ConstrainedRows:
    """Used by the sampler's thread, in the plans' order. A row's next stand depends on its last one only."""

    def __init__(self, constrainer: Constrainer, known: Known, *, threaded: bool = True) -> None:
        """threaded: constraints move on in a thread, beside a step that is computed in this one. Else within
        `drawn`, for a caller who would wait for them at once."""
        self._constrainer = constrainer
        self._known = known
        self._stands: dict[int, Future[_Stands]] = {}  # by row: the job that makes its stand
        self._formed: set[int] = set()  # rows whose turn has a form, so that each token may have a mask
        self._ending: dict[int, ThinkingEnd] = {}  # rows that were free, until they next sample
        # One thread moves all constraints on, as one job a step: four were no faster on two cores. What
        # begins may take long, and has another, so that nobody waits for it but its own row.
        self._moving = ThreadPoolExecutor(max_workers=1, thread_name_prefix="masks") if threaded else None
        self._beginning = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forms")

    def apply(self, plan: StepPlan) -> None:
        """Note whose turns begin, and whose thinking ends."""
        for start in plan.starts:
            self._start(start)
        for end in plan.thinking_ends:
            stand = self._stands.get(end.row)
            if stand is None:
                self._ending[end.row] = end
            else:
                self._stands[end.row] = self._ended(end.row, stand)

    def _ended(self, row: int, stand: Future[_Stands]) -> Future[_Stands]:
        """The job that ends a row's thinking; no other row waits for what that may wait for."""
        if self._moving is not None:
            return self._moving.submit(_end_thinking, row, stand)
        if stand.done():
            return _done(_end_thinking(row, stand))
        return self._beginning.submit(_end_thinking, row, stand)  # right behind its own beginning

    def _start(self, start: RowStart) -> None:
        """Row `start.row` is this request's from now on."""
        self._stands.pop(start.row, None)
        self._formed.discard(start.row)
        self._ending.pop(start.row, None)
        request = start.request
        if request.turn.form is not None:
            self._formed.add(start.row)
        if not request.turn.is_free:
            said = start.tokens[len(request.prompt) :]
            self._stands[start.row] = self._beginning.submit(self._begin, start.row, request.turn, said)

    def may_restrict(self, work: Sequence[RowWork], under_way: frozenset[int]) -> bool:
        """Whether `allowed` may have a mask, or a failure, for any of `work`; rows `under_way` have drawn a
        token that is not known here yet. Waits for no mask that is being made."""
        return any(self._may_restrict(item.row, item.row in under_way) for item in work)

    def _may_restrict(self, row: int, is_under_way: bool) -> bool:
        if row in self._ending:
            return True
        job = self._stands.get(row)
        if job is None:
            return False
        if row in self._formed and not job.done():
            return True
        stand = job.result()[row]
        if isinstance(stand, MossoError):
            return True
        return stand.slack < 2 if is_under_way else stand.mask is not None

    def hurries(self, work: Sequence[RowWork], under_way: frozenset[int]) -> bool:
        """Whether `allowed` must know the tokens of rows `under_way`, which have not been `drawn` yet."""
        return any(self._hurries(item.row) for item in work if item.row in under_way)

    def _hurries(self, row: int) -> bool:
        if row in self._ending:
            return True
        job = self._stands.get(row)
        stand = None if job is None else job.result()[row]
        return isinstance(stand, MossoError) or (stand is not None and stand.slack < 2)

    def allowed(self, work: Sequence[RowWork]) -> Allowed:
        """For the next token of each row of `work`, which all sample; waits for masks that are not ready."""
        at, masks, failures = [], [], []
        last, stands = None, _Stands()
        for index, item in enumerate(work):
            if item.row in self._ending:
                self._end_free(self._ending.pop(item.row), item.start + item.count)
            job = self._stands.get(item.row)
            if job is not None and job is not last:
                last, stands = job, job.result()
            stand = None if job is None else stands[item.row]
            if isinstance(stand, MossoError):
                failures.append((item.row, stand.message))
                del self._stands[item.row]
            elif stand is not None and stand.mask is not None:
                at.append(index)
                masks.append(stand.mask)
        return Allowed(tuple(at), tuple(masks), tuple(failures))

    def drawn(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """The rows' constraints move on by their tokens."""
        moves = [move for move in zip(rows, tokens, strict=True) if move[0] in self._stands]
        if not moves:
            return
        before = [self._stands[row] for row, _ in moves]
        if self._moving is None:
            job = _done(_in_turn(moves, before))
        else:
            job = self._moving.submit(self._together, moves, before)
        self._stands.update((row, job) for row, _ in moves)

    def holds(self, rows: Sequence[int]) -> bool:
        """Whether any of the rows has a constraint."""
        return any(row in self._stands for row in rows)

    def close(self) -> None:
        if self._moving is not None:
            self._moving.shutdown(cancel_futures=True)
        self._beginning.shutdown(cancel_futures=True)

    def _end_free(self, end: ThinkingEnd, length: int) -> None:
        """A free row has one constraint from here on; it has `length` tokens."""
        first = len(end.request.prompt) + len(end.said)
        said = (*end.said, *self._known(end.row, first, length))
        self._stands[end.row] = self._beginning.submit(self._begin, end.row, end.request.turn, said)

    def _begin(self, row: int, turn: Turn, said: Sequence[int]) -> _Stands:
        return {row: _tried(lambda: _Stand.of(self._constrainer.begin(turn, said)))}

    def _together(self, moves: Sequence[_Move], before: Sequence[Future[_Stands]]) -> _Stands:
        """The stands after moves, made in few calls of the library: each lets go of the interpreter's lock,
        which the thread that computes the step wants. The jobs that make those before were submitted earlier,
        so they have ended, or are being done, when this one begins."""
        stands = _latest(moves, before)
        going = [
            (row, token, stand.constraint) for row, token in moves if isinstance(stand := stands[row], _Stand)
        ]
        constraints = [constraint for _, _, constraint in going]
        masks = self._constrainer.advance(constraints, [token for _, token, _ in going])
        for (row, _, constraint), mask in zip(going, masks, strict=True):
            stands[row] = (
                mask if isinstance(mask, MossoError) else _Stand(constraint, mask, constraint.slack())
            )
        return stands


def _in_turn(moves: Sequence[_Move], before: Sequence[Future[_Stands]]) -> _Stands:
    """As `_together`, one after another, which is faster where no other thread wants the lock."""
    stands = _latest(moves, before)
    for row, token in moves:
        stand = stands[row]
        if isinstance(stand, _Stand):
            stands[row] = _tried(partial(_moved, stand.constraint, token))
    return stands


def _latest(moves: Sequence[_Move], before: Sequence[Future[_Stands]]) -> _Stands:
    return {row: job.result()[row] for (row, _), job in zip(moves, before, strict=True)}


def _moved(constraint: TokenConstraint, token: int) -> _Stand:
    constraint.consume(token)
    return _Stand.of(constraint)


def _done(stands: _Stands) -> Future[_Stands]:
    job: Future[_Stands] = Future()
    job.set_result(stands)
    return job


def _end_thinking(row: int, before: Future[_Stands]) -> _Stands:
    stand = before.result()[row]
    if isinstance(stand, MossoError):
        return {row: stand}
    stand.constraint.end_thinking()
    return {row: _tried(lambda: _Stand.of(stand.constraint))}


def _tried(make: Callable[[], _Stand | MossoError]) -> _Stand | MossoError:
    try:
        return make()
    except MossoError as error:
        return error


def words(masks: Sequence[Mask], vocab_size: int) -> np.ndarray:
    """int32 [N, words] of masks in the protocol's order; token v is bit v % 32 of word v // 32."""
    size = -(-vocab_size // 32) * 4
    if any(len(mask) != size for mask in masks):  # a vocabulary that is not the model's
        masks = [bytes(mask[:size]).ljust(size, b"\0") for mask in masks]
    return np.frombuffer(bytearray().join(masks), "<i4").reshape(len(masks), -1)
