"""Puts the engine on a GPU together: weights, workspace, KV pages in what is left, graphs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosso.checkpoint.reader import Checkpoint
from mosso.core.config import ModelConfig
from mosso.core.constraints import Constrainer
from mosso.core.errors import UsageError
from mosso.core.steps import RowWork
from mosso.engine.gpu_compile import start_compiling
from mosso.engine.gpu_graphs import GpuGraphs, PieceGraphs
from mosso.engine.gpu_inputs import StepInputs, gather, pack
from mosso.engine.gpu_memory import DeviceMemory, LastingMemory
from mosso.engine.gpu_rows import RowParams
from mosso.engine.gpu_runner import GpuRunner
from mosso.engine.gpu_table import GpuTable
from mosso.engine.memory import KVBudget, kv_budget, kv_page_bytes
from mosso.engine.messages import Emit, Progress
from mosso.engine.settings import MIB, EngineSettings
from mosso.kernels.gpu.launch import FLOAT8, Chip, chip
from mosso.model.gpu_forward import GpuModel, forward, one_of_each
from mosso.model.gpu_loading import load_gpu_weights
from mosso.model.gpu_operations import TRITON, deterministic
from mosso.model.gpu_plan import (
    WORKSPACE_SLACK,
    decode_sizes,
    embedding_on_host,
    graphs_bytes,
    late_graphs_bytes,
    logits_bytes,
    piece_sizes,
)
from mosso.model.gpu_weights import GpuWeights
from mosso.model.paged import PagedKV

KV_TYPES = {"bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}


@dataclass(frozen=True, slots=True)
class GpuEngine:
    """What the loop needs of a GPU that is ready."""

    runner: GpuRunner
    budget: KVBudget
    notes: tuple[str, ...]


def build_gpu_engine(
    checkpoint: Checkpoint, settings: EngineSettings, emit: Emit, constrainer: Constrainer | None = None
) -> GpuEngine:
    """Load the model. `settings` are resolved. Raises UsageError where the device is too small or too old."""
    require_shape(checkpoint.config)
    device = torch.device("cuda", torch.cuda.current_device())
    require_kv_type(settings.kv_dtype_name, chip(device))
    memory = DeviceMemory.open(device, settings.gpu_memory)
    weights, compiled = _load(checkpoint, settings, memory, emit)
    return _Builder(checkpoint.config, settings, device, memory, weights, constrainer).build(emit, compiled)


def require_kv_type(kv_dtype: str, chip: Chip) -> None:
    """Raises UsageError where the chip has no such keys and values."""
    if kv_dtype == "float8" and chip.capability < FLOAT8:
        raise UsageError(f"--kv-dtype float8 needs a GPU of sm_89 or newer; this one is {chip.arch}")


def require_shape(config: ModelConfig) -> None:
    """Raises UsageError for a model that the kernels are not made for, as none that is published is."""
    group = config.num_heads // config.num_kv_heads
    for what, number, least, most in (
        ("experts", config.num_experts, 1, config.num_experts),
        ("numbers in an attention head", config.head_dim, 16, 256),
        ("query heads for each key/value head", group, 1, 64),
    ):
        if number & (number - 1) or not least <= number <= most:
            wanted = "a power of two" + (f" from {least} to {most}" if number != most else "")
            raise UsageError(
                f"the GPU engine needs {what} to be {wanted}, not {number}; --device cpu runs it"
            )


def _load(
    checkpoint: Checkpoint, settings: EngineSettings, memory: DeviceMemory, emit: Emit
) -> tuple[GpuWeights, str]:
    """Weights, and how the kernels were compiled, which happens meanwhile."""
    compiling = start_compiling(
        settings.model,
        max_tokens=settings.budget,
        max_rows=settings.rows,
        max_context=settings.max_context or checkpoint.config.max_context,
        page_size=settings.page_size,
        kv_dtype=str(KV_TYPES[settings.kv_dtype_name]).removeprefix("torch."),
        deterministic=settings.deterministic,
    )
    try:
        emit(Progress("loading weights"))
        weights = load_gpu_weights(
            checkpoint, memory.device, host_embedding=embedding_on_host(checkpoint.nbytes, memory.bound)
        )
        emit(Progress("compiling kernels"))
        return weights, compiling.wait()
    except BaseException:
        compiling.cancel()
        raise


@dataclass(frozen=True, slots=True)
class _Builder:
    config: ModelConfig
    settings: EngineSettings
    device: torch.device
    memory: DeviceMemory
    weights: GpuWeights
    constrainer: Constrainer | None = None

    def build(self, emit: Emit, compiled: str) -> GpuEngine:
        settings, config = self.settings, self.config
        longest = min(settings.max_context or config.max_context, config.max_context)
        table = GpuTable(settings.rows, longest, settings.page_size, self.device)
        inputs = StepInputs(settings.budget, settings.rows, self.device)
        sizes = decode_sizes(settings.rows)
        lasting = LastingMemory(self.device)
        one = self.allocate(1, 1)
        small = self.model(one, table)
        emit(Progress("warming up"))
        GpuGraphs(one_of_each(small), inputs, table.scratch, lasting).warm_up(sizes)
        workspace = self.measure_step(small, inputs, longest)

        before = self.memory.used()
        graphs_room = graphs_bytes(
            config, settings.rows, settings.budget, deterministic=settings.deterministic
        )
        scratch = sum(kv_page_bytes(config, settings))  # a page of each group
        left = self.memory.bound - before - WORKSPACE_SLACK - graphs_room - scratch
        budget = kv_budget(config, settings, left)
        with lasting.pages():
            kv = self.allocate(budget.full_pages + 1, budget.window_pages + 1, one.rotary)
        table.use_scratch_pages(budget.full_pages, budget.window_pages)
        model = self.model(kv, table)
        with_pages = self.memory.used()
        emit(Progress("capturing graphs"))
        graphs = GpuGraphs(model, inputs, table.scratch, lasting)
        graphs.capture(sizes)
        pieces = PieceGraphs.allocate(model, inputs, lasting, piece_sizes(settings.budget))
        pieces.reserve(table.scratch)
        self.memory.enforce(
            late_graphs_bytes(config, settings.rows, settings.budget, deterministic=settings.deterministic)
        )
        after = self.memory.used()
        taken = (
            f"GPU memory: {self.memory.bound / MIB:,.0f} MiB at most; before the pages "
            f"{(before - workspace) / MIB:,.0f}, a step's workspace {workspace / MIB:,.0f}, graphs "
            f"{(after - with_pages) / MIB:,.0f} (room {graphs_room / MIB:,.0f}), now {after / MIB:,.0f}"
        )
        runner = GpuRunner(model, table, inputs, graphs, self.constrainer, pieces)
        return GpuEngine(runner, budget, (compiled, taken))

    def model(self, kv: PagedKV, table: GpuTable) -> GpuModel:
        ops = deterministic(TRITON) if self.settings.deterministic else TRITON
        return GpuModel(self.weights, self.config, kv, table.tokens, table.pages, ops)

    def allocate(
        self, full_pages: int, window_pages: int, rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> PagedKV:
        dtype = KV_TYPES[self.settings.kv_dtype_name]
        page_size = self.settings.page_size
        try:
            return PagedKV.allocate(
                self.config, full_pages, window_pages, page_size, dtype, self.device, rotary
            )
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"--gpu-memory: {self.device} does not give {full_pages + window_pages:,} pages of KV"
            ) from error

    @torch.inference_mode()
    def measure_step(self, model: GpuModel, inputs: StepInputs, longest: int) -> int:
        """Bytes that torch holds for full steps and the shaped logits after them, by running some.

        What it holds, not what tensors take: between tensors of many sizes it cannot use all. It keeps
        that for the steps to come: with less, or other memory, it would have to ask the device anew in each.
        """
        budget = self.settings.budget
        self.run_step(model, inputs, longest, -(-budget // 8))  # makes what stays, such as workspaces
        torch.cuda.empty_cache()
        start = torch.cuda.memory_reserved(self.device)
        for _ in range(2):
            self.run_step(model, inputs, longest, budget)
        return torch.cuda.memory_reserved(self.device) - start

    def run_step(self, model: GpuModel, inputs: StepInputs, longest: int, tokens: int) -> None:
        """A step of prompts of up to `longest` tokens, all on the same page; then room for shaped logits."""
        work = [
            RowWork(row, 0, min(longest, tokens - first), True)
            for row, first in enumerate(range(0, tokens, longest))
        ]
        batch = gather(work[: self.settings.rows])
        slot = inputs.acquire()
        place = pack(slot.ints, batch, RowParams(self.settings.rows + 1), None)
        inputs.send(slot, place.end)
        slot.record()
        h = forward(model, inputs.step(place, batch))  # kept, as it is while logits are
        shaped = [
            torch.empty(size, dtype=torch.uint8, device=h.device)
            for size in logits_bytes(self.config, self.settings.rows)
        ]
        torch.cuda.synchronize()
        del shaped
