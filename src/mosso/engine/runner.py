"""Runs step plans on the device, in order, while the loop already plans the next step.

`launch` returns at once; `Pending.wait` returns what the step sampled. At most two plans are under way, and
the second may use tokens that the first has not sampled yet: they go through the table, never by the host.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from mosso.core.steps import StepPlan, StepResult
from mosso.engine.sampler import Sampled, Sampler
from mosso.engine.table import RowTable
from mosso.model.inputs import StepInputs

Forward = Callable[[StepInputs], torch.Tensor]  # → float32 logits [S, V], one row per inputs.sample_at


class Pending(Protocol):
    """A step under way."""

    def wait(self) -> StepResult:
        """Block until the step is done. Raises whatever the step raised."""
        ...


class Runner(Protocol):
    """Owns the device's state: weights, KV pages, the row table."""

    def launch(self, plan: StepPlan) -> Pending: ...

    def reset(self) -> None:
        """After a failed step: whatever is under way is dropped. Raises when the device cannot go on."""
        ...

    def close(self) -> None: ...


class TorchRunner:
    """One worker thread executes the plans in order; the loop's thread never computes.

    Table and sampler belong to that thread alone: plans go in and results come back as values. On CUDA the
    thread only enqueues; the loop's thread waits for the copy of the results.
    """

    def __init__(self, table: RowTable, sampler: Sampler, forward: Forward) -> None:
        self._table = table
        self._sampler = sampler
        self._forward = forward
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="steps")

    def launch(self, plan: StepPlan) -> Pending:
        return _Launched(plan, self._worker.submit(self._execute, plan))

    def reset(self) -> None:
        """Every row starts afresh with its next RowStart; here it is only seen whether the device lives."""
        self._worker.submit(self._table.probe).result()

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)
        self._sampler.close()

    @torch.inference_mode()
    def _execute(self, plan: StepPlan) -> Sampled | None:
        self._table.apply(plan)
        self._sampler.apply(plan)
        inputs = self._table.gather(plan.work)
        self._sampler.advance()
        logits = self._forward(inputs)
        sampling = [item for item in plan.work if item.samples]
        return self._sampler.sample(logits, sampling) if sampling else None


class _Launched:
    def __init__(self, plan: StepPlan, future: Future[Sampled | None]) -> None:
        self._plan = plan
        self._future = future

    def wait(self) -> StepResult:
        sampled = self._future.result()
        if sampled is None:
            return StepResult(self._plan.step, (), (), ())
        rows = tuple(item.row for item in self._plan.work if item.samples)
        tokens, logprobs = sampled.to_host()
        return StepResult(self._plan.step, rows, tokens, logprobs, sampled.failures)
