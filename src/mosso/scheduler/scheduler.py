"""The policy: which positions of which requests the next step computes.

There is no prefill phase and no decode phase: the computed tokens of each request chase its known tokens
under one token budget. Sequences wait by priority and, within one, fairly between tenants (see queue); when
they start they get a rank, by priority, then in the order of the starts. The rules:

- Rows with one position left come first, so that streams flow; then longer stretches, best rank first.
  Beside such rows the stretches get a budget of their own, so that a stream's next token is never far.
- The best waiting sequence starts when a row is free and all its known tokens fit; nobody overtakes it.
- Rows are as many as there are, or as streams can run without being slowed down too much (see pace).
- Beside others, only a few background sequences run, and none starts while others wait.
- Where pages run out, the worst running sequence makes room for a better one; the worst itself waits. To be
  started, a sequence takes room only from sequences of a worse priority.
- So the best sequence of all is never stopped by another; alone it fits, hence every plan makes progress.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import heappop, heappush
from itertools import pairwise

from mosso.core.errors import EngineError, OverloadedError, RequestError
from mosso.core.requests import EngineStats, FinishReason, QueueLoad, Request, TokenEvent, TokenLogprob
from mosso.core.steps import RowStart, RowWork, StepPlan, StepResult, ThinkingEnd
from mosso.scheduler.config import SchedulerConfig
from mosso.scheduler.draft import Draft, Flight
from mosso.scheduler.kv import KvCache, PrefixMatch
from mosso.scheduler.ledger import Ledger
from mosso.scheduler.pace import Pace
from mosso.scheduler.queue import Ranked, Share, Waiting
from mosso.scheduler.sequence import UNSTARTED, Rank, Sequence, token_limit

_MAX_FLIGHTS = 2  # one step runs, one more is launched behind it
_SERVICE = 2  # of a generated token, as fairness counts it; a prompt's computed token is 1


class Scheduler:
    """Plans steps for the requests that it is given and turns their results into events.

    Not thread-safe: one loop calls add, abort, plan and update. Each plan's result is given to update() in
    the order of the plans; at most one plan may run when the next one is made.
    """

    def __init__(self, config: SchedulerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._kv = KvCache(config)
        self._sequences: dict[str, Sequence] = {}  # by request id: waiting or running
        self._waiting = Waiting()
        self._running = Ranked()
        self._rows_of: Counter[Share] = Counter()  # rows, by priority and tenant
        self._free_rows = list(range(config.max_rows))  # a heap: low rows first
        self._releases: list[int] = []  # rows that the device still believes to be in use
        self._thought: list[Sequence] = []  # whose thinking was ended since the last plan
        self._flights: deque[Flight] = deque()
        self._next_step = 0
        self._arrivals = self._starts = 0
        self._short_of_pages = False  # a row was free for the best one that waits, and it could not start
        self._ledger = Ledger(clock, Pace(config.max_rows, config.max_slowdown, clock))
        self._orphans: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []  # see _check_orphans

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises RequestError if it can never fit, OverloadedError if as many wait as may; those of a worse
        priority do not count.
        """
        limit = token_limit(request, self.config.context)
        if request.id in self._sequences:
            raise RequestError(f"a request with the id {request.id} is being served already")
        if (ahead := self._waiting.count(request.priority)) >= self.config.max_waiting:
            raise OverloadedError(f"{ahead} requests are waiting already; try again later")
        if not self.has_work:
            self._ledger.work_begins()
        rank = (request.priority, UNSTARTED + self._arrivals)
        self._arrivals += 1
        sequence = Sequence(request, rank, limit, tokens=[*request.prompt, *request.generated])
        sequence.added_at = self._ledger.now()
        self._sequences[request.id] = sequence
        self._waiting.add(sequence)

    def abort(self, request_id: str) -> list[TokenEvent]:
        """End a request: its last event, or nothing if it is not known (any more)."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return []
        self._end(sequence, FinishReason.ABORT)
        return [self._event(sequence, (), ())]

    def end_thinking(self, request_id: str) -> None:
        """The request has thought enough: the device learns of it with the next plan, or with its start."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            sequence.request = replace(sequence.request, thinking_budget=0)
            self._thought.append(sequence)

    def fail(self, message: str) -> list[TokenEvent]:
        """The device lost what it computed, and the steps under way: nothing of them may be used again.

        Ends every running request with an error and forgets all cached content; what waits goes on waiting.
        """
        failed = list(self._running)
        for sequence in failed:
            self._end(sequence, FinishReason.ERROR)
        self._flights.clear()
        self._orphans.clear()
        self._kv = KvCache(self.config)
        for sequence in self._waiting:
            sequence.in_flight = 0  # preempted, with a token under way: it is sampled again
        return [replace(self._event(sequence, (), ()), error=message, lost=True) for sequence in failed]

    # ---- plan

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to compute before a result or a request comes."""
        assert len(self._flights) < _MAX_FLIGHTS, "plan() again before the result of an earlier plan"
        draft = Draft(self._next_step, self.config.token_budget)
        self._short_of_pages = False
        self._plan_singles(draft)
        if draft.work and self.config.prefill_budget is not None:
            draft.budget = min(draft.budget, self.config.prefill_budget)
        self._plan_stretches(draft)
        return self._commit(draft) if draft.work else None

    def _plan_singles(self, draft: Draft) -> None:
        for sequence in tuple(self._running):
            if sequence.row is not None and sequence.remaining == 1 and draft.budget > 0:
                self._compute(sequence, draft)

    def _plan_stretches(self, draft: Draft) -> None:
        for sequence in [s for s in self._running if s.remaining > 1]:
            self._start_better_than(sequence.rank, draft)
            if sequence.row is not None and draft.budget > 0:
                self._compute(sequence, draft)
        self._start_better_than(None, draft)

    def _compute(self, sequence: Sequence, draft: Draft) -> None:
        """Put the sequence's next positions into the draft, or nothing if it must stand back now, or if no
        page can be had for it."""
        assert sequence.row is not None
        if sequence.is_background and self._stands_back(draft):
            return
        size = self.config.page_size
        start, remaining, held = sequence.computed, sequence.remaining, len(sequence.full_pages)
        if remaining == 1 and start < held * size:  # what most rows do in most steps
            draft.put(sequence, RowWork(sequence.row, start, 1, True))
            return
        while (room := self._kv.room(sequence)) < 1:
            if not self._preempt_worse_than(sequence, draft):
                return
        count = min(remaining, draft.budget, room)
        full, window = self._kv.extend(sequence, count, draft.step)
        samples = count == remaining
        work = RowWork(sequence.row, start, count, samples, tuple(full), tuple(enumerate(window, held)))
        draft.put(sequence, work)
        if count > 1:  # a prompt, or what it resumes with: its keys are known since match()
            draft.computing.update(sequence.keys[start // size : (start + count) // size])

    def _stands_back(self, draft: Draft) -> bool:
        """Whether one more background sequence would be too many beside those that are not."""
        best = self._running.best
        others = best is not None and not best.is_background
        return others and draft.background >= self.config.most_background_rows

    def _preempt_worse_than(self, sequence: Sequence, draft: Draft) -> bool:
        victim = self._running.worst
        if victim is None or victim is sequence:
            return False
        self._preempt(victim, draft)
        return True

    def _preempt(self, victim: Sequence, draft: Draft) -> None:
        """Back to the queue with its tokens. One that is in flight still counts: update() keeps it, and the
        sequence starts again only when all its tokens are known."""
        draft.preempt(victim)
        self._vacate(victim)
        self._waiting.add(victim)
        self._ledger.preemptions += 1

    def _vacate(self, sequence: Sequence) -> None:
        """Take away its row and pages. The device learns of it with the next plan."""
        assert sequence.row is not None
        if self._flights:
            pages = tuple(sequence.full_pages), tuple(sequence.window_pages)
            self._orphans.append((self._flights[-1].step, *pages))
        self._running.remove(sequence)
        self._rows_of -= Counter({sequence.share: 1})
        self._releases.append(sequence.row)
        heappush(self._free_rows, sequence.row)
        sequence.row = None
        self._kv.release(sequence)

    def _start_better_than(self, rank: Rank | None, draft: Draft) -> None:
        """Start waiting sequences, best first, until one must go on waiting or is worse than `rank`."""
        while draft.admitting and draft.budget > 0:
            head = self._waiting.best
            if head is None or (rank is not None and head.rank > rank):
                return
            draft.admitting = self._start(head, draft)

    def _start(self, head: Sequence, draft: Draft) -> bool:
        worst = self._running.worst
        urgent = worst is not None and worst.priority > head.priority
        if head.in_flight or head in draft.preempted or not (self._has_row() or urgent):
            return False
        if head.is_background and self._stands_back(draft):
            return False
        match = self._kv.match(head)
        if match.next_key in draft.computing:
            return False  # its prefix goes on in a page that this step computes: one step later it is a hit
        while not (self._has_row() and self._kv.can_start(head, match, self._reserved_pages())):
            worst = self._running.worst
            if worst is None or worst.priority <= head.priority:
                self._short_of_pages = self._has_row()
                return False
            self._preempt(worst, draft)
        self._occupy(head, match, draft)
        self._compute(head, draft)
        assert head in draft.work
        return True

    def _has_row(self) -> bool:
        return len(self._running) < self._ledger.pace.row_limit()

    def _reserved_pages(self) -> int:
        """Full pages that running sequences lack for their tokens, and one more each to grow into."""
        pages = self.config.pages
        return sum(pages(s.total) + 1 - len(s.full_pages) for s in self._running)

    def _occupy(self, sequence: Sequence, match: PrefixMatch, draft: Draft) -> None:
        self._waiting.remove(sequence)
        sequence.row = heappop(self._free_rows)
        self._kv.start(sequence, match)
        if not sequence.started:
            self._first_start(sequence)
        self._running.add(sequence)
        self._rows_of[sequence.share] += 1
        window = enumerate(match.window_pages, match.window_first)
        start = RowStart(
            row=sequence.row,
            request=sequence.request,
            tokens=tuple(sequence.tokens),
            cached=sequence.computed,
            full_pages=match.full_pages,
            window_pages=tuple(window),
        )
        draft.starts.append(start)

    def _first_start(self, sequence: Sequence) -> None:
        prompt = len(sequence.request.prompt)
        cached = min(sequence.computed, prompt)
        sequence.rank = (sequence.priority, self._starts)
        self._starts += 1
        sequence.cached_tokens = cached
        sequence.queued_seconds = self._ledger.now() - sequence.added_at
        self._ledger.prompt_started(prompt, cached)
        self._waiting.charge(sequence, prompt - cached)

    def _commit(self, draft: Draft) -> StepPlan:
        """From here on the draft's work counts as done: every later plan runs after it."""
        sampling = []
        for sequence, work in draft.work.items():
            sequence.computed += work.count
            if work.samples:
                sequence.in_flight += 1
                sampling.append(sequence)
            self._kv.settle(sequence)
        rows = tuple(work.row for work in draft.work.values() if work.samples)
        self._flights.append(Flight(draft.step, self._ledger.now(), draft.size, rows, tuple(sampling)))
        plan = draft.plan(tuple(self._releases), tuple(self._thinking_ends()))
        self._releases.clear()
        self._thought.clear()
        self._next_step += 1
        return plan

    def _thinking_ends(self) -> Iterator[ThinkingEnd]:
        for sequence in self._thought:
            if sequence.row is not None:
                said = tuple(sequence.tokens[len(sequence.request.prompt) :])
                yield ThinkingEnd(sequence.row, sequence.request, said)

    # ---- update

    def update(self, result: StepResult) -> list[TokenEvent]:
        """One event for each request that got a token.

        Raises EngineError if this is not the result of the oldest plan without one.
        """
        flight = self._flights[0] if self._flights else None
        if flight is None or (flight.step, flight.rows) != (result.step, result.rows):
            raise EngineError(f"the result of step {result.step} does not belong to the oldest running step")
        self._flights.popleft()
        self._orphans = [orphan for orphan in self._orphans if orphan[0] > flight.step]
        self._ledger.step_ended(flight.planned_at, flight.size)
        failed = dict(result.failures)
        got = zip(flight.sequences, result.rows, result.tokens, result.logprobs, strict=True)
        return [
            self._fail(s, failed[row]) if row in failed else self._accept(s, token, logprob)
            for s, row, token, logprob in got
            if s.finish is None
        ]

    def _fail(self, sequence: Sequence, why: str) -> TokenEvent:
        """This sequence's own constraint cannot go on; what was drawn for it means nothing."""
        sequence.in_flight -= 1
        self._end(sequence, FinishReason.ERROR)
        return replace(self._event(sequence, (), ()), error=why, refused=True)

    def _accept(self, sequence: Sequence, token: int, logprob: TokenLogprob | None) -> TokenEvent:
        sequence.in_flight -= 1
        sequence.tokens.append(token)
        self._ledger.generated_tokens += 1
        self._waiting.charge(sequence, _SERVICE)
        if sequence.row is not None and len(sequence.tokens) % self.config.page_size == 0:
            self._kv.settle(sequence)
        finish = sequence.finish_reason()
        if finish is not None:
            self._end(sequence, finish)
        return self._event(sequence, (token,), () if logprob is None else (logprob,))

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Steps in flight may still work on the sequence; their results for it are dropped by update()."""
        sequence.finish = reason
        if sequence.row is None:
            self._waiting.remove(sequence)
        else:
            self._vacate(sequence)
        del self._sequences[sequence.request.id]
        self._ledger.finished(reason)
        if sequence.started:  # whoever left the queue says nothing about answers
            self._ledger.pace.answered(len(sequence.tokens) - len(sequence.request.prompt))

    def _event(
        self, sequence: Sequence, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]
    ) -> TokenEvent:
        if sequence.announced:
            return TokenEvent(sequence.request.id, tokens, logprobs, sequence.finish)
        sequence.announced = True
        cached, queued = sequence.cached_tokens or 0, sequence.queued_seconds
        return TokenEvent(
            sequence.request.id, tokens, logprobs, sequence.finish, cached, queued_seconds=queued
        )

    # ---- what it looks like from outside

    def stats(self) -> EngineStats:
        """A snapshot; kv_blocks count the pages of both groups."""
        waiting = self._waiting.loads()
        shares = sorted(self._rows_of.keys() | waiting.keys())
        loads = (QueueLoad(*share, self._rows_of[share], *waiting.get(share, (0, 0))) for share in shares)
        rows = len(self._running) if self._short_of_pages else self._ledger.pace.row_limit()
        pools = (self._kv.full, self._kv.window)
        return self._ledger.stats(len(self._running), len(self._waiting), pools, tuple(loads), rows)

    def check(self) -> None:
        """Assert every invariant. True between calls of plan, update, add and abort."""
        self._kv.check(self._running)
        self._check_orphans()
        running, waiting = list(self._running), list(self._waiting)
        rows = Counter([*self._free_rows, *(s.row for s in running)])
        assert rows == Counter(range(self.config.max_rows))
        assert {s.request.id: s for s in (*running, *waiting)} == self._sequences
        assert all(a.rank < b.rank for a, b in pairwise(running))
        assert all((a.priority, b.started) <= (b.priority, a.started) for a, b in pairwise(waiting))
        assert self._rows_of == Counter(s.share for s in running)
        assert self._waiting.loads() == _loads(waiting)
        first = {s.priority: s.rank for s in reversed(waiting)}
        assert all(s.rank < first.get(s.priority, (s.priority + 1, 0)) for s in running), "overtaken"
        assert all(s.row is None and not s.full_pages and not s.window_pages for s in waiting)
        in_flight = Counter(s for flight in self._flights for s in flight.sequences)
        for s in (*running, *waiting):
            assert s.finish is None
            assert s.in_flight == in_flight[s]
            assert 0 <= s.computed <= s.total <= s.limit

    def _check_orphans(self) -> None:
        """A page given up while steps run may still be written by them: whoever writes it next runs later."""
        for step, *groups in self._orphans:
            for pool, pages in zip((self._kv.full, self._kv.window), groups, strict=True):
                assert all(pool.taken_after(page, step) for page in pages if pool.is_private(page))


def _loads(waiting: list[Sequence]) -> dict[Share, tuple[int, int]]:
    """What Waiting.loads must be."""
    loads: dict[Share, tuple[int, int]] = {}
    for sequence in waiting:
        number, tokens = loads.get(sequence.share, (0, 0))
        loads[sequence.share] = number + 1, tokens + len(sequence.request.prompt)
    return loads
