"""Steps as CUDA graphs: the hundreds of kernels of a step start with few calls.

A graph has its number of tokens fixed; a step takes the smallest size that holds it, with padding on the
scratch row. All graphs share one memory pool, as they never run at once.

GpuGraphs    decode steps, whole. Of each size there are two: up to the drawn tokens, and up to the hidden
             states, for rows whose logits are shaped first
PieceGraphs  steps with prompts, in pieces cut at attention. Long steps need none: there the device takes
             longer than the host needs to launch kernels one by one
"""

from __future__ import annotations

import gc
import logging
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from mosso.engine.gpu_inputs import ACTIVE, StepInputs, layout
from mosso.engine.gpu_sampler import draw, draws
from mosso.model.gpu_forward import GpuModel, GpuStep, all_spans, attention, forward, queries
from mosso.model.gpu_pieces import Between, run_piece

logger = logging.getLogger("mosso")


class GraphMemory:
    """What all graphs share: a pool, and the stream that captures, as memory belongs to a stream."""

    def __init__(self, device: torch.device) -> None:
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None


@contextmanager
def _uncollected() -> Iterator[None]:
    """An old graph that is collected while one is captured would spoil it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _next_size(sizes: tuple[int, ...], tokens: int) -> int | None:
    """The smallest size that holds them."""
    at = bisect_left(sizes, tokens)
    return sizes[at] if at < len(sizes) else None


def _point_at_scratch(inputs: StepInputs, size: int, scratch: int, active: int) -> None:
    """Inputs of `size` tokens, all of them the scratch row's, the first `active` not as padding."""
    place = layout(size, size, 0)
    inputs.ints[: place.end] = 0
    inputs.part(place.rows, size).fill_(scratch)
    inputs.ints[ACTIVE] = active


def decode(model: GpuModel, inputs: StepInputs, size: int, *, drawn: bool) -> torch.Tensor:
    """One decode step of `size` rows → tokens int32 [size] if `drawn`, else hidden states [size, H]."""
    place = layout(size, size, 0)
    h = forward(model, inputs.step(place, None))
    return draw(model, h, draws(inputs, place, decode=True)) if drawn else h


@dataclass(slots=True)
class GpuGraphs:
    """Graphs by (size, drawn), each with its result, which the next replay of any graph may overwrite."""

    model: GpuModel
    inputs: StepInputs
    scratch: int  # the scratch row
    memory: GraphMemory
    sizes: tuple[int, ...] = ()  # of the graphs that there are
    _graphs: dict[tuple[int, bool], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = field(default_factory=dict)

    def size_for(self, tokens: int) -> int | None:
        return _next_size(self.sizes, tokens)

    def replay(self, size: int, *, drawn: bool) -> torch.Tensor:
        graph, result = self._graphs[size, drawn]
        graph.replay()
        return result

    @torch.inference_mode()
    def warm_up(self, sizes: tuple[int, ...]) -> None:
        """Run each size once, so that its kernels are there."""
        for size in sizes:
            _point_at_scratch(self.inputs, size, self.scratch, size)
            decode(self.model, self.inputs, size, drawn=True)
        torch.cuda.synchronize()

    @torch.inference_mode()
    def capture(self, sizes: tuple[int, ...]) -> None:
        """Largest first, so that the others find their memory in its pool. Sizes must have been warmed up."""
        gc.collect()
        with _uncollected():
            for size in reversed(sizes):
                _point_at_scratch(self.inputs, size, self.scratch, size)
                for drawn in (False, True):
                    self._graphs[size, drawn] = self._captured(size, drawn=drawn)
        torch.cuda.synchronize()
        self.sizes = sizes

    def _captured(self, size: int, *, drawn: bool) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        graph, memory = torch.cuda.CUDAGraph(), self.memory
        with torch.cuda.graph(graph, memory.pool, memory.stream, capture_error_mode="thread_local"):
            result = decode(self.model, self.inputs, size, drawn=drawn)
        graph.replay()  # uploads it: the first replay is slower than the others
        return graph, result


@dataclass(slots=True)
class PieceGraphs:
    """Graphs of pieces by number of tokens, each captured once a step has had so many.

    `between` holds the largest size; a step's result lies there until the next step.
    """

    model: GpuModel
    inputs: StepInputs
    memory: GraphMemory
    sizes: tuple[int, ...]
    between: Between
    _graphs: dict[int, list[torch.cuda.CUDAGraph]] = field(default_factory=dict)
    _due: int | None = None  # a size that has run, but not been captured

    @classmethod
    def allocate(
        cls, model: GpuModel, inputs: StepInputs, memory: GraphMemory, sizes: tuple[int, ...]
    ) -> PieceGraphs:
        """sizes ascending."""
        return cls(model, inputs, memory, sizes, Between.allocate(model, max(sizes, default=0)))

    def size_for(self, tokens: int) -> int | None:
        return _next_size(self.sizes, tokens)

    def forward(self, step: GpuStep) -> torch.Tensor:
        """As gpu_forward.forward, for a step that is padded to one of the sizes."""
        model, size = self.model, len(step.rows)
        graphs, between = self._graphs.get(size), self.between.part(size)
        if model.ops.uniform:
            step = all_spans(step)
        q, layers = queries(model, between.qkv), model.config.num_layers
        for index in range(layers + 1):
            if graphs is None:
                run_piece(model, step, index, between)
            else:
                graphs[index].replay()
            if index < layers:
                attention(model, step, index, q, out=between.gathered)
        self._due = size if graphs is None else None
        return between.x if step.sample_at is None else between.x.index_select(0, step.sample_at)

    @torch.inference_mode()
    def reserve(self, scratch: int) -> None:
        """Capture the largest size, in whose memory the others find theirs; after all other graphs."""
        if self.sizes:
            size = self.sizes[-1]
            _point_at_scratch(self.inputs, size, scratch, active=0)
            self.forward(replace(self.inputs.piece(size), decodes=0))
            self._capture(size)

    def capture_due(self) -> None:
        """Capture what the last step ran for the first time; to be called once all of that step is launched,
        as it takes the host as long as launching the step did. The device may still be at it.
        """
        size, self._due = self._due, None
        if size is None:
            return
        try:
            self._capture(size)
        except torch.OutOfMemoryError:
            logger.warning("no memory for graphs of steps of %d tokens: they are padded further", size)
            self.sizes = tuple(other for other in self.sizes if other != size)

    def _capture(self, size: int) -> None:
        """All of it has run before, so that no kernel is loaded meanwhile."""
        step, between = self.inputs.piece(size), self.between.part(size)
        with _uncollected(), torch.cuda.stream(self.memory.stream):
            self._graphs[size] = [
                self._captured(step, index, between) for index in range(self.model.config.num_layers + 1)
            ]

    def _captured(self, step: GpuStep, index: int, between: Between) -> torch.cuda.CUDAGraph:
        """Not by torch.cuda.graph, which waits for the device and empties caches."""
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(self.memory.pool, capture_error_mode="thread_local")
        try:
            run_piece(self.model, step, index, between)
        finally:
            graph.capture_end()
        return graph
