"""What has happened so far, in numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

from mosso.core.requests import STEP_SECONDS, STEP_TOKENS, EngineStats, FinishReason, Histogram, QueueLoad
from mosso.scheduler.pace import Pace, StepSize
from mosso.scheduler.pages import PagePool


class Tally:
    """A histogram that grows."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def histogram(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)


class Ledger:
    """Counters of the scheduler's life, and the time of its steps in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float], pace: Pace) -> None:
        self._clock = clock
        self.pace = pace
        self._progress_at = clock()  # when a step last ended, or work came while there was none
        self._step_seconds = 0.0
        self._seconds = Tally(STEP_SECONDS)
        self._tokens = Tally(STEP_TOKENS)
        self.steps = 0
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self.generated_tokens = 0
        self.preemptions = 0
        self._finished: Counter[str] = Counter()

    def now(self) -> float:
        return self._clock()

    def work_begins(self) -> None:
        """Work has come and there was none: time spent idle is not time spent waiting."""
        self._progress_at = self._clock()

    def step_ended(self, planned_at: float, size: StepSize) -> None:
        """A step's own time begins when the step before it ends, or when it is planned if that is later."""
        now = self._clock()
        self._step_seconds = now - max(planned_at, self._progress_at)
        self._progress_at = now
        self.pace.step_ended(size, self._step_seconds)
        self._seconds.add(self._step_seconds)
        self._tokens.add(size.positions)
        self.steps += 1

    def prompt_started(self, tokens: int, cached: int) -> None:
        self.prompt_tokens += tokens
        self.cached_prompt_tokens += cached

    def finished(self, reason: FinishReason) -> None:
        self._finished[reason.value] += 1

    def stats(
        self,
        running: int,
        waiting: int,
        pools: tuple[PagePool, ...],
        loads: tuple[QueueLoad, ...],
        row_limit: int,
    ) -> EngineStats:
        """A snapshot; kv_blocks count the pages of all groups."""
        return EngineStats(
            running=running,
            waiting=waiting,
            kv_blocks_total=sum(pool.total for pool in pools),
            kv_blocks_free=sum(pool.num_free for pool in pools),
            kv_blocks_cached=sum(pool.num_cached for pool in pools),
            kv_blocks_held=sum(pool.num_held for pool in pools),
            steps=self.steps,
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            generated_tokens=self.generated_tokens,
            preemptions=self.preemptions,
            finished=dict(self._finished),
            last_step_seconds=self._step_seconds,
            step_seconds=self._seconds.histogram(),
            step_tokens=self._tokens.histogram(),
            seconds_since_step=self._clock() - self._progress_at if running or waiting else 0.0,
            loads=loads,
            row_limit=row_limit,
            answer_seconds=self.pace.answer_seconds,
            prompt_token_seconds=self.pace.prompt_token_seconds,
        )
