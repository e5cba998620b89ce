"""What has happened so far, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from mosso.core.requests import EngineStats, FinishReason
from mosso.scheduler.pages import PagePool


class Ledger:
    """Counters of the scheduler's life, and the time of its steps in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._progress_at = clock()  # when a step last ended, or work came while there was none
        self._step_seconds = 0.0
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

    def step_ended(self, planned_at: float) -> None:
        """A step's own time begins when the step before it ends, or when it is planned if that is later."""
        now = self._clock()
        self._step_seconds = now - max(planned_at, self._progress_at)
        self._progress_at = now
        self.steps += 1

    def prompt_started(self, tokens: int, cached: int) -> None:
        self.prompt_tokens += tokens
        self.cached_prompt_tokens += cached

    def finished(self, reason: FinishReason) -> None:
        self._finished[reason.value] += 1

    def stats(self, running: int, waiting: int, pools: tuple[PagePool, ...]) -> EngineStats:
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
            seconds_since_step=self._clock() - self._progress_at if running or waiting else 0.0,
        )
