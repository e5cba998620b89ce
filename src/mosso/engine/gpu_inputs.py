"""What a step tells the GPU: one packed array, one copy.

The host writes everything that a step needs into pinned memory and copies it to one buffer on the device,
where kernels, and captured graphs, find each part at a place that follows from the step's size alone. A ring
of pinned slots, each guarded by an event, lets the host go on while copies are under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from mosso.core.steps import RowWork
from mosso.engine.gpu_rows import RowParams
from mosso.model.gpu_forward import GpuSpans, GpuStep

SLOTS = 4  # two steps are under way at most; a slot is filled while they are
MOST_UPDATES = 16_384  # page-table entries in one packed array; more go by themselves
ALIGNMENT = 4  # words: every part starts at 16 bytes, so that kernels are compiled once

Ints = np.ndarray


def aligned(words: int) -> int:
    return -(-words // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class HostBatch:
    """One step on the host: tokens in the device's order (see GpuStep), samples in the plan's order."""

    rows: Ints  # int32 [T]
    positions: Ints  # int32 [T]
    decodes: int
    span_rows: Ints  # int32 [N]
    query_starts: Ints  # int32 [N + 1]
    context_lens: Ints  # int32 [N]
    sample_at: Ints  # int32 [S], index into the tokens
    sample_rows: Ints  # int32 [S]
    sample_positions: Ints  # int32 [S], of the tokens drawn from; the sampled one goes to the next position

    @property
    def is_decode(self) -> bool:
        """Whether each token is its row's only one and is sampled."""
        return len(self.sample_rows) == len(self.rows) == self.decodes


def gather(work: Sequence[RowWork]) -> HostBatch:
    """Rows with one token first, then the others, each in the plan's order."""
    facts = np.array([(item.row, item.start, item.count, item.samples) for item in work], dtype=np.int32)
    row, start, count, samples = facts.T
    last = start + count - 1
    order = np.argsort(count > 1, kind="stable")
    counts, ends = count[order], np.cumsum(count[order], dtype=np.int32)
    decodes = int((count == 1).sum())
    total = int(ends[-1])
    if total == len(work):
        rows, positions = row, start
    else:
        rows = np.repeat(row[order], counts)
        positions = np.arange(total, dtype=np.int32) + np.repeat(start[order] - (ends - counts), counts)
    final = np.empty_like(ends)
    final[order] = ends - 1
    sampling = np.flatnonzero(samples)
    return HostBatch(
        rows=rows,
        positions=positions,
        decodes=decodes,
        span_rows=row[order[decodes:]],
        query_starts=np.concatenate(([0], ends[decodes:] - decodes)).astype(np.int32),
        context_lens=last[order[decodes:]] + 1,
        sample_at=final[sampling],
        sample_rows=row[sampling],
        sample_positions=last[sampling],
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts lie, in words of four bytes, for T tokens, S samples and N spans."""

    tokens: int
    samples: int
    spans: int
    rows: int  # [T]; this and the next follow from T alone, for pieces that are captured
    positions: int  # [T]
    seed: int  # int64 [S]
    temperature: int  # float32 [S]
    top_p: int
    min_p: int
    top_k: int
    outputs: int  # [S], tokens generated before
    sample_at: int  # [S]
    sample_rows: int  # [S]
    sample_positions: int  # [S]
    span_rows: int  # [N]
    query_starts: int  # [N + 1]
    context_lens: int  # [N]
    end: int


ACTIVE = 0  # where the number of real tokens lies


@lru_cache(maxsize=4096)
def layout(tokens: int, samples: int, spans: int) -> Layout:
    """`samples` equal to `tokens` without spans is a decode step."""
    sizes = [*[tokens] * 2, 2 * samples, *[samples] * 8, spans, spans + 1, spans]
    places = [ALIGNMENT]
    for size in sizes:
        places.append(places[-1] + aligned(size))
    return Layout(tokens, samples, spans, *places)


def pack(ints: Ints, batch: HostBatch, params: RowParams, size: int | None) -> Layout:
    """Write a step's inputs into int32 words; `size`: tokens that it is padded to.

    The padding runs on the scratch row, at position 0, greedily.
    """
    decode = batch.is_decode
    samples = len(batch.sample_rows)
    tokens = len(batch.rows) if size is None else size
    place = layout(tokens, tokens if decode else samples, 0 if decode else len(batch.span_rows))

    def put(at: int, values: Ints) -> None:
        ints[at : at + len(values)] = values

    ints[ACTIVE] = len(batch.rows)
    rows, positions = batch.rows, batch.positions
    if tokens > len(rows):
        padding = tokens - len(rows)
        rows = np.concatenate((rows, np.full(padding, params.scratch, np.int32)))
        positions = np.concatenate((positions, np.zeros(padding, np.int32)))
    put(place.rows, rows)
    put(place.positions, positions)
    if decode:
        put_params(ints, place, params, rows, positions)
        return place
    put_params(ints, place, params, batch.sample_rows, batch.sample_positions)
    put(place.sample_at, batch.sample_at)
    put(place.sample_rows, batch.sample_rows)
    put(place.sample_positions, batch.sample_positions)
    put(place.span_rows, batch.span_rows)
    put(place.query_starts, batch.query_starts)
    put(place.context_lens, batch.context_lens)
    return place


def put_params(ints: Ints, place: Layout, params: RowParams, rows: Ints, positions: Ints) -> None:
    """How `rows` sample, gathered."""
    count = len(rows)
    ints.view(np.int64)[place.seed // 2 : place.seed // 2 + count] = params.seed[rows]
    floats = ints.view(np.float32)
    floats[place.temperature : place.temperature + count] = params.temperature[rows]
    floats[place.top_p : place.top_p + count] = params.top_p[rows]
    floats[place.min_p : place.min_p + count] = params.min_p[rows]
    ints[place.top_k : place.top_k + count] = params.top_k[rows]
    ints[place.outputs : place.outputs + count] = params.outputs(rows, positions)


class Slot:
    """Pinned memory of one step: what goes in, what comes back, and the event after both copies."""

    def __init__(self, words: int, max_rows: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self.words = torch.zeros(words, dtype=torch.int32, pin_memory=pinned)
        self.results = torch.zeros(max_rows, dtype=torch.int32, pin_memory=pinned)
        self.ints = self.words.numpy()
        self.tokens = self.results.numpy()
        self.done = torch.cuda.Event() if pinned else None

    def take_back(self, tokens: torch.Tensor) -> None:
        """Copy sampled tokens int32 [S] into `tokens`, once the device has them."""
        self.results[: len(tokens)].copy_(tokens, non_blocking=True)

    def record(self) -> None:
        """From here on `wait` waits for all that was launched until now."""
        if self.done is not None:
            self.done.record()

    def wait(self) -> None:
        """Until the device has read and written it; at once if it was not used."""
        if self.done is not None:
            self.done.synchronize()


class StepInputs:
    """The device's buffer, and the ring in front of it."""

    def __init__(self, max_tokens: int, max_rows: int, device: torch.device) -> None:
        words = layout(max_tokens, max_rows, max_rows).end + 2 * aligned(MOST_UPDATES)
        self._slots = [Slot(words, max_rows, device) for _ in range(SLOTS)]
        self._next = 0
        self.ints = torch.zeros(words, dtype=torch.int32, device=device)
        self.floats = self.ints.view(torch.float32)
        self.wide = self.ints.view(torch.int64)

    def acquire(self) -> Slot:
        slot = self._slots[self._next]
        self._next = (self._next + 1) % SLOTS
        slot.wait()
        return slot

    def send(self, slot: Slot, words: int) -> None:
        """The copy is ordered behind the steps that still read the buffer: all is one stream's work."""
        self.ints[:words].copy_(slot.words[:words], non_blocking=True)

    def step(self, place: Layout, batch: HostBatch | None) -> GpuStep:
        """The inputs of a forward pass that was packed by `place`; batch None: a decode step."""
        rows = self.part(place.rows, place.tokens)
        positions = self.part(place.positions, place.tokens)
        active = self.ints[ACTIVE : ACTIVE + 1]
        if batch is None:
            return GpuStep(rows, positions, active, decodes=place.tokens)
        spans = None
        if place.spans:
            spans = GpuSpans(
                self.part(place.span_rows, place.spans),
                self.part(place.query_starts, place.spans + 1),
                self.part(place.context_lens, place.spans),
                longest=int(np.diff(batch.query_starts).max()),
            )
        sample_at = self.part(place.sample_at, place.samples)
        return GpuStep(rows, positions, active, batch.decodes, spans, sample_at)

    def piece(self, tokens: int) -> GpuStep:
        """Of any step of so many tokens, what pieces read."""
        return self.step(layout(tokens, 0, 0), None)

    def part(self, first: int, count: int) -> torch.Tensor:
        return self.ints[first : first + count]
