"""Steps as CUDA graphs: the hundreds of kernels of a step start with few calls.

A graph has its number of tokens fixed; a step takes the smallest size that holds it, with padding on the
scratch row. All graphs share one memory pool, as they never run at once.

GpuGraphs    decode steps, whole. Of each size there are two: up to the drawn tokens, captured at the start,
             and up to the hidden states, for rows whose logits are shaped first
PieceGraphs  steps with prompts, in pieces cut at attention. Long steps need none: there the device takes
             longer than the host needs to launch kernels one by one

What is not captured at the start is so behind the first step that would have used it.
"""

from __future__ import annotations

import gc
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch

from mosso.engine.gpu_inputs import ACTIVE, StepInputs, layout
from mosso.engine.gpu_memory import LastingMemory
from mosso.engine.gpu_sampler import draw, draws
from mosso.model.gpu_forward import GpuModel, GpuStep, all_spans, attention, forward, queries
from mosso.model.gpu_pieces import Between, run_piece

logger = logging.getLogger("mosso")

T = TypeVar("T")


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


def _captured(memory: LastingMemory, run: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """All that `run` launches has run before, so that no kernel is loaded meanwhile; the device may be busy.

    Not by torch.cuda.graph, which waits for the device and empties caches.
    """
    graph = torch.cuda.CUDAGraph()
    with _uncollected(), torch.cuda.stream(memory.stream):
        graph.capture_begin(memory.graphs, capture_error_mode="thread_local")
        try:
            result = run()
        except BaseException:
            with suppress(RuntimeError):  # what went wrong first is what is told
                graph.capture_end()
            raise
        graph.capture_end()
    return graph, result


def _line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0]


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
    memory: LastingMemory
    sizes: tuple[int, ...] = ()  # of the graphs that there are
    _graphs: dict[tuple[int, bool], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = field(default_factory=dict)
    _due: int | None = None  # a size that has run up to its hidden states, but not been captured so
    _without: set[int] = field(default_factory=set)  # sizes that could not be captured so

    def size_for(self, tokens: int) -> int | None:
        return _next_size(self.sizes, tokens)

    def decode(self, size: int, *, drawn: bool) -> torch.Tensor:
        """As the function `decode`."""
        if found := self._graphs.get((size, drawn)):
            graph, result = found
            graph.replay()
            return result
        result = decode(self.model, self.inputs, size, drawn=drawn)
        self._due = None if size in self._without else size
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
        for size in reversed(sizes):
            _point_at_scratch(self.inputs, size, self.scratch, size)
            self._capture(size, drawn=True)
            self.decode(size, drawn=True)  # uploads it: the first replay is slower than the others
        torch.cuda.synchronize()
        self.sizes = sizes

    def capture_due(self) -> None:
        """Capture what the last step ran for the first time; to be called once all of that step is launched,
        as it takes the host as long as launching the step did."""
        size, self._due = self._due, None
        if size is None:
            return
        try:
            self._capture(size, drawn=False)
        except RuntimeError as error:  # no memory, torch's or the driver's
            logger.warning("no graph of %d rows with shaped logits, they run without: %s", size, _line(error))
            self._without.add(size)

    def _capture(self, size: int, *, drawn: bool) -> None:
        self._graphs[size, drawn] = _captured(
            self.memory, lambda: decode(self.model, self.inputs, size, drawn=drawn)
        )


@dataclass(slots=True)
class PieceGraphs:
    """Graphs of pieces by number of tokens, each captured once a step has had so many.

    `between` holds the largest size.
    """

    model: GpuModel
    inputs: StepInputs
    memory: LastingMemory
    sizes: tuple[int, ...]
    between: Between
    _graphs: dict[int, list[torch.cuda.CUDAGraph]] = field(default_factory=dict)
    _due: int | None = None  # a size that has run, but not been captured

    @classmethod
    def allocate(
        cls, model: GpuModel, inputs: StepInputs, memory: LastingMemory, sizes: tuple[int, ...]
    ) -> PieceGraphs:
        """sizes ascending."""
        with memory.pages():
            between = Between.allocate(model, max(sizes, default=0))
        return cls(model, inputs, memory, sizes, between)

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
        """Capture the largest size, whose memory most of the others' lies in; after all other graphs."""
        if self.sizes:
            size = self.sizes[-1]
            _point_at_scratch(self.inputs, size, scratch, active=0)
            self.forward(replace(self.inputs.piece(size), decodes=0))
            self.capture_due()

    def capture_due(self) -> None:
        """As GpuGraphs.capture_due."""
        size, self._due = self._due, None
        if size is None:
            return
        try:
            self._capture(size)
        except RuntimeError as error:  # no memory, torch's or the driver's
            logger.warning("no graphs of steps of %d tokens, they are padded further: %s", size, _line(error))
            self.sizes = tuple(other for other in self.sizes if other != size)

    def _capture(self, size: int) -> None:
        step, between = self.inputs.piece(size), self.between.part(size)
        self._graphs[size] = [
            _captured(self.memory, partial(run_piece, self.model, step, index, between))[0]
            for index in range(self.model.config.num_layers + 1)
        ]
