"""The constraints of the device's rows, advanced token by token, and their masks.

A constraint moves on as soon as its row's token is drawn, in a thread of its own, while the next step is
computed: masks are off the critical path, and a constrained row runs in every step like any other. Its state
is a function of the row's tokens: a row that starts again after a preemption begins with those it has.

Where a mask leaves one token, that token is forced: the constraint takes it at once and goes on. So it may be
ahead of its row. A step that draws a forced token has the mask of this one token, so that it makes no
difference who knows of it by then, and the constraint stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from mosso.core.constraints import Constrainer, TokenConstraint, Turn
from mosso.core.errors import MossoError
from mosso.core.steps import RowStart, RowWork, StepPlan, ThinkingEnd

MOST_FORCED = 32
"""Tokens that a constraint may be ahead of its row: a step that computes them must stay a short one."""

Known = Callable[[int, int, int], Sequence[int]]
"""(row, first, last): the row's tokens at positions first .. last - 1; waits for those under way."""


@dataclass(frozen=True, slots=True)
class _Stand:
    """A row's constraint: the token at `position` has this mask, and those right before it are `forced`."""

    constraint: TokenConstraint | None
    position: int
    forced: tuple[int, ...] = ()
    mask: bytes | None = None
    slack: int = 0  # see TokenConstraint
    failure: str | None = None  # why there is no mask: the constraint cannot go on

    @classmethod
    def of(cls, make: Callable[[], TokenConstraint], position: int) -> _Stand:
        """Of a constraint whose row's next token goes to `position`."""
        forced: list[int] = []
        try:
            constraint = make()
            mask = constraint.mask()
            while (token := only_token(mask)) is not None and len(forced) < MOST_FORCED:
                forced.append(token)
                constraint.consume(token)
                mask = constraint.mask()
        except MossoError as error:
            return cls(None, position + len(forced), tuple(forced), failure=error.message)
        return cls(constraint, position + len(forced), tuple(forced), mask, constraint.slack())

    def mask_at(self, position: int) -> bytes | None:
        return self.mask if position >= self.position else only(self.forced[position - self.position])

    def forced_behind(self, position: int) -> tuple[int, ...]:
        """The tokens that follow the row's token at `position`, whatever is drawn."""
        ahead = self.position - position - 1
        return self.forced[-ahead:] if ahead > 0 else ()

    def moved(self, position: int, token: int) -> _Stand:
        """After the row's token at `position`, which a forced one was already."""
        constraint = self.constraint
        if constraint is None or position < self.position:
            return self

        def consumed() -> TokenConstraint:
            constraint.consume(token)
            return constraint

        return _Stand.of(consumed, position + 1)

    def without_thinking(self) -> _Stand:
        """What is forced was decided, and may have been told."""
        if self.constraint is None:
            return self
        self.constraint.end_thinking()
        try:
            return replace(self, mask=self.constraint.mask(), slack=self.constraint.slack())
        except MossoError as error:
            return replace(self, constraint=None, failure=error.message)


_Stands = dict[int, _Stand]  # by row: what one job made


@dataclass(frozen=True, slots=True)
class Draw:
    """A constrained row's token was drawn: the job makes the row's stand behind it."""

    row: int
    position: int
    job: Future[_Stands]

    def forced(self) -> tuple[int, ...]:
        """The tokens that must follow; waits for the job."""
        return self.job.result()[self.row].forced_behind(self.position)


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
        self._stands: dict[int, Future[_Stands]] = {}  # by row: the job that makes its stand
        self._formed: set[int] = set()  # rows whose turn has a form, so that each token may have a mask
        self._ending: dict[int, ThinkingEnd] = {}  # rows that were free, until they next sample
        # One thread moves all constraints on, as one job a step: several would mostly wait for the
        # interpreter's lock, which the library gives away and takes again in each call. What begins may take
        # long, and has another, so that nobody waits for it but its own row.
        self._moving = ThreadPoolExecutor(max_workers=1, thread_name_prefix="masks")
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
                self._stands[end.row] = self._moving.submit(_end_thinking, end.row, stand)

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
            position = len(start.tokens)
            self._stands[start.row] = self._beginning.submit(
                self._begin, start.row, request.turn, said, position
            )

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
        if stand.failure is not None or stand.forced:
            return True
        return stand.slack < 2 if is_under_way else stand.mask is not None

    def hurries(self, work: Sequence[RowWork], under_way: frozenset[int]) -> bool:
        """Whether `allowed` must know the tokens of rows `under_way`, which have not been `drawn` yet."""
        return any(self._hurries(item.row) for item in work if item.row in under_way)

    def _hurries(self, row: int) -> bool:
        if row in self._ending:
            return True
        job = self._stands.get(row)
        return job is not None and job.result()[row].slack < 2

    def allowed(self, work: Sequence[RowWork]) -> Allowed:
        """For the next token of each row of `work`, which all sample; waits for masks that are not ready."""
        at, masks, failures = [], [], []
        last, stands = None, _Stands()
        for index, item in enumerate(work):
            position = item.start + item.count
            if item.row in self._ending:
                self._end_free(self._ending.pop(item.row), position)
            if (job := self._stands.get(item.row)) is None:
                continue
            if job is not last:
                last, stands = job, job.result()
            stand = stands[item.row]
            if stand.failure is not None and position >= stand.position:
                failures.append((item.row, stand.failure))
                del self._stands[item.row]
            elif (mask := stand.mask_at(position)) is not None:
                at.append(index)
                masks.append(mask)
        return Allowed(tuple(at), tuple(masks), tuple(failures))

    def drawn(self, rows: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Draw]:
        """The rows' constraints move on by their tokens, which went to these positions."""
        moves = [move for move in zip(rows, positions, tokens, strict=True) if move[0] in self._stands]
        if not moves:
            return []
        job = self._moving.submit(_advance, moves, [self._stands[row] for row, *_ in moves])
        self._stands.update((row, job) for row, *_ in moves)
        return [Draw(row, position, job) for row, position, _ in moves]

    def holds(self, rows: Sequence[int]) -> bool:
        """Whether any of the rows has a constraint."""
        return any(row in self._stands for row in rows)

    def close(self) -> None:
        self._moving.shutdown(cancel_futures=True)
        self._beginning.shutdown(cancel_futures=True)

    def _end_free(self, end: ThinkingEnd, length: int) -> None:
        """A free row has one constraint from here on; it has `length` tokens."""
        first = len(end.request.prompt) + len(end.said)
        said = (*end.said, *self._known(end.row, first, length))
        self._stands[end.row] = self._beginning.submit(self._begin, end.row, end.request.turn, said, length)

    def _begin(self, row: int, turn: Turn, said: Sequence[int], position: int) -> _Stands:
        return {row: _Stand.of(lambda: self._constrainer.begin(turn, said), position)}


def _advance(moves: Sequence[tuple[int, int, int]], before: Sequence[Future[_Stands]]) -> _Stands:
    """The stands after moves (row, position, token). The jobs that make those before were submitted earlier,
    so they have ended, or are being done, when this one begins."""
    those = zip(moves, before, strict=True)
    return {row: job.result()[row].moved(position, token) for (row, position, token), job in those}


def _end_thinking(row: int, before: Future[_Stands]) -> _Stands:
    return {row: before.result()[row].without_thinking()}


def only(token: int) -> bytes:
    """The mask of this token alone."""
    return bytes(token // 8) + bytes([1 << token % 8])


def only_token(mask: bytes | None) -> int | None:
    """The token of a mask that has one only."""
    if mask is None:
        return None
    words = np.frombuffer(mask.ljust(-(-len(mask) // 4) * 4, b"\0"), "<u4")
    if np.count_nonzero(words) != 1:
        return None
    at = int(words.argmax())
    word = int(words[at])
    return 32 * at + word.bit_length() - 1 if word.bit_count() == 1 else None


def words(masks: Sequence[bytes], vocab_size: int) -> np.ndarray:
    """int32 [N, words] of masks in the protocol's order; token v is bit v % 32 of word v // 32."""
    size = -(-vocab_size // 32) * 4
    whole = b"".join(mask[:size].ljust(size, b"\0") for mask in masks)
    return np.frombuffer(bytearray(whole), "<i4").reshape(len(masks), -1)
