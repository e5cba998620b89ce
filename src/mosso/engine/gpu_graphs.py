"""Decode steps as CUDA graphs: the hundreds of kernels of a step start with one call.

A graph has its number of rows fixed; a step takes the smallest graph that holds it, with padding on the
scratch row. Of each size there are two: up to the drawn tokens, and up to the hidden states, for rows whose
logits are shaped first. All share one memory pool, as they never run at once.
"""

from __future__ import annotations

import gc
from bisect import bisect_left
from dataclasses import dataclass, field

import torch

from mosso.engine.gpu_inputs import ACTIVE, StepInputs, layout
from mosso.engine.gpu_sampler import draw, draws
from mosso.model.gpu_forward import GpuModel, forward


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
    sizes: tuple[int, ...] = ()  # of the graphs that there are
    _graphs: dict[tuple[int, bool], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = field(default_factory=dict)

    def size_for(self, tokens: int) -> int | None:
        at = bisect_left(self.sizes, tokens)
        return self.sizes[at] if at < len(self.sizes) else None

    def replay(self, size: int, *, drawn: bool) -> torch.Tensor:
        graph, result = self._graphs[size, drawn]
        graph.replay()
        return result

    @torch.inference_mode()
    def warm_up(self, sizes: tuple[int, ...]) -> None:
        """Run each size once, so that its kernels are there."""
        for size in sizes:
            self._point_at_scratch(size)
            decode(self.model, self.inputs, size, drawn=True)
        torch.cuda.synchronize()

    @torch.inference_mode()
    def capture(self, sizes: tuple[int, ...]) -> None:
        """Largest first, so that the others find their memory in its pool. Sizes must have been warmed up."""
        gc.collect()
        gc.disable()  # an old graph that is collected while one is captured would spoil it
        try:
            self._capture(sizes)
        finally:
            gc.enable()

    def _capture(self, sizes: tuple[int, ...]) -> None:
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(sizes):
            self._point_at_scratch(size)
            for drawn in (False, True):
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                    result = decode(self.model, self.inputs, size, drawn=drawn)
                graph.replay()  # uploads it: the first replay is slower than the others
                self._graphs[size, drawn] = graph, result
        torch.cuda.synchronize()
        self.sizes = sizes

    def _point_at_scratch(self, size: int) -> None:
        place = layout(size, size, 0)
        self.inputs.ints[: place.end] = 0
        self.inputs.part(place.rows, size).fill_(self.scratch)
        self.inputs.ints[ACTIVE] = size
