"""Runs step plans on the GPU: the loop's own thread packs, copies and launches, and never waits.

Everything is one stream's work: the copy of the inputs, the page tables, the forward pass, the draw, which
writes the sampled tokens into the table where the next step reads them, and the copy of the tokens back. The
host waits for an event, and only in `Pending.wait`.

The same code runs on the CPU with the twins, without graphs, at once instead of later: so tests hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mosso.core.constraints import Constrainer
from mosso.core.requests import TokenLogprob
from mosso.core.steps import StepPlan, StepResult
from mosso.engine.constrained import Allowed
from mosso.engine.gpu_constraints import Constraints
from mosso.engine.gpu_graphs import GpuGraphs, PieceGraphs
from mosso.engine.gpu_inputs import (
    MOST_UPDATES,
    HostBatch,
    Layout,
    Slot,
    StepInputs,
    aligned,
    gather,
    pack,
)
from mosso.engine.gpu_rows import RowParams
from mosso.engine.gpu_sampler import Shaped, draw, draw_shaped, draws
from mosso.engine.gpu_table import GpuTable, PageUpdates, upload
from mosso.engine.runner import Pending
from mosso.model.gpu_forward import GpuModel, forward


class GpuRunner:
    """Implements engine.runner.Runner."""

    def __init__(
        self,
        model: GpuModel,
        table: GpuTable,
        inputs: StepInputs,
        graphs: GpuGraphs | None = None,
        constrainer: Constrainer | None = None,
        pieces: PieceGraphs | None = None,
    ) -> None:
        """Without a `constrainer` no request may have a constraint."""
        self._model = model
        self._table = table
        self._inputs = inputs
        self._graphs = graphs
        self._pieces = pieces
        self._params = RowParams(table.scratch + 1)
        self._device = inputs.ints.device
        self._constraints = None if constrainer is None else Constraints(constrainer, table)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Pending:
        for start in plan.starts:
            self._params.start(start.row, start.request)
        updates = self._table.apply(plan)
        restricts = self._constraints is not None and self._constraints.apply(plan)
        batch = gather(plan.work)
        graphs = self._graphs if batch.is_decode else self._pieces
        size = graphs.size_for(len(batch.rows)) if graphs else None
        slot = self._inputs.acquire()
        place = self._send(slot, batch, size, updates)
        sampled, failures = self._run(plan, batch, place, size, restricts=restricts)
        if sampled is None:
            self._launched((), slot)
            return _Launched(plan.step, (), slot)
        slot.take_back(sampled.tokens)
        found = sampled.logprobs
        copies = () if found is None else tuple(
            tensor.to("cpu", non_blocking=True) for tensor in (found.chosen, found.top_tokens, found.top)
        )  # fmt: skip
        rows = tuple(batch.sample_rows.tolist())
        self._launched(rows, slot)
        return _Launched(plan.step, rows, slot, sampled.asked, copies, failures)

    def reset(self) -> None:
        """Every row starts afresh with its next RowStart; here it is only seen whether the device lives."""
        if self._constraints is not None:
            self._constraints.reset()
        if self._inputs.ints.is_cuda:
            torch.cuda.synchronize()

    def close(self) -> None:
        if self._constraints is not None:
            self._constraints.close()

    def _launched(self, rows: tuple[int, ...], slot: Slot) -> None:
        """All of a step is on its way."""
        slot.record()
        for graphs in (self._graphs, self._pieces):
            if graphs is not None:
                graphs.capture_due()
        if self._constraints is not None:
            self._constraints.launched(rows, slot)

    def _send(self, slot: Slot, batch: HostBatch, size: int | None, updates: PageUpdates) -> Layout:
        """Inputs and page tables go to the device."""
        place = pack(slot.ints, batch, self._params, size)
        count = len(updates.at)
        if count > MOST_UPDATES:  # long cached prefixes
            self._inputs.send(slot, place.end)
            both = np.array((updates.at, updates.ids), np.int32)
            self._table.set_pages(*upload(both, self._device).unbind())
            return place
        ids = place.end + aligned(count)
        slot.ints[place.end : place.end + count] = updates.at
        slot.ints[ids : ids + count] = updates.ids
        self._inputs.send(slot, ids + count if count else place.end)
        if count:
            self._table.set_pages(self._inputs.part(place.end, count), self._inputs.part(ids, count))
        return place

    def _run(
        self, plan: StepPlan, batch: HostBatch, place: Layout, size: int | None, *, restricts: bool
    ) -> tuple[Shaped | None, tuple[tuple[int, str], ...]]:
        """Compute the step and draw → (what was drawn, or None if it samples nothing; the rows that cannot).

        size: of the graphs that it is padded to, if any. What rows may draw is asked for only when the
        forward pass is under way.
        """
        decode, samples = batch.is_decode, len(batch.sample_rows)
        outputs = self._params.outputs(batch.sample_rows, batch.sample_positions)
        plain = self._params.all_plain(batch.sample_rows, outputs)
        if size is not None and decode and self._graphs is not None:
            h = self._graphs.decode(size, drawn=plain and not restricts)[:samples]
            if plain and not restricts:
                return Shaped(h), ()
        elif size is not None and self._pieces is not None:
            h = self._pieces.forward(self._inputs.step(place, batch))
        else:
            h = forward(self._model, self._inputs.step(place, None if decode else batch))
        if not samples:
            return None, ()
        rows = draws(self._inputs, place, decode=decode).part(slice(samples))
        allowed = self._constraints.allowed(plan) if self._constraints and restricts else Allowed()
        if plain and not allowed.at:
            return Shaped(draw(self._model, h, rows)), allowed.failures
        return draw_shaped(self._model, h, rows, batch, self._params, allowed), allowed.failures


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step under way: its results come to the slot, and to `logprobs` (of the samples `asked`)."""

    step: int
    rows: tuple[int, ...]  # that sample
    slot: Slot
    asked: tuple[tuple[int, int], ...] = ()
    logprobs: tuple[torch.Tensor, ...] = ()  # chosen, top_tokens, top; on the host
    failures: tuple[tuple[int, str], ...] = ()  # as in StepResult

    def wait(self) -> StepResult:
        self.slot.wait()
        tokens = tuple(self.slot.tokens[: len(self.rows)].tolist())
        found: list[TokenLogprob | None] = [None] * len(tokens)
        lists = [tensor.tolist() for tensor in self.logprobs]
        for (index, count), chosen, top_tokens, top in zip(self.asked, *lists, strict=True) if lists else ():
            best = tuple(zip(top_tokens[:count], top[:count], strict=True))
            found[index] = TokenLogprob(tokens[index], chosen, best)
        return StepResult(self.step, self.rows, tokens, tuple(found), self.failures)
