"""Puts one engine together from its settings: the composition root of the child process."""

from __future__ import annotations

import queue
from functools import partial

import torch

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.reader import Checkpoint
from mosso.core.config import ModelConfig
from mosso.core.constraints import Constrainer
from mosso.core.errors import UsageError
from mosso.core.requests import EngineLimits
from mosso.engine.gpu_memory import bound_bytes
from mosso.engine.loop import EngineLoop
from mosso.engine.memory import KVBudget, kv_budget
from mosso.engine.messages import Emit, Progress, Ready, ToEngine
from mosso.engine.pulse import Pulse
from mosso.engine.runner import Runner, TorchRunner
from mosso.engine.sampler import Sampler
from mosso.engine.settings import EXPANDED_LIMIT, GPU_MEMORY, MIB, EngineSettings
from mosso.engine.table import RowTable
from mosso.grammar import HarmonyConstrainer
from mosso.kernels import native
from mosso.kernels.operations import TWINS, Operations, operations_for
from mosso.model.loading import load_weights
from mosso.model.paged import PagedKV, forward
from mosso.model.plan import ELEMENT_BYTES
from mosso.model.weights import ExpertsForm
from mosso.scheduler import Scheduler, SchedulerConfig


def build_loop(
    settings: EngineSettings, inbox: queue.SimpleQueue[ToEngine], emit: Emit, pulse: Pulse | None = None
) -> tuple[EngineLoop, Ready]:
    """Load the model and return the loop, which tells `pulse` how it comes on, with the message that says so.

    Raises UsageError for settings that cannot be had here, CheckpointError for a damaged model.
    """
    pulse = pulse or Pulse()
    cuda = find_cuda(settings)
    emit(Progress("reading the checkpoint"))
    with open_checkpoint(settings.model) as checkpoint:
        config = checkpoint.config
        cuda = cuda and (settings.device == "cuda" or checkpoint.experts_format == "mxfp4")
        settings = settings.resolved(
            cuda=cuda,
            weight_bytes=checkpoint.nbytes,
            device_memory=bound_bytes(settings.gpu_memory, torch.cuda.mem_get_info()[1]) if cuda else None,
        )
        constrainer = HarmonyConstrainer(settings.model, config.vocab_size)
        if settings.device == "cuda":
            runner, budget, notes = build_gpu(checkpoint, settings, emit, constrainer, pulse)
        else:
            runner, budget, notes = build_cpu(checkpoint, settings, emit, constrainer, pulse)
    limits = EngineLimits(budget.max_context, budget.full_tokens, settings.rows, config.vocab_size)
    scheduler = Scheduler(scheduler_config(config, budget, settings))
    loop = EngineLoop(
        scheduler, runner, inbox, emit, limits, constrainer=constrainer, pulse=pulse, check=settings.check
    )
    return loop, Ready(limits, (*notes, describe_kv(budget), describe_sizes(settings)), settings)


Built = tuple[Runner, KVBudget, tuple[str, ...]]


def build_gpu(
    checkpoint: Checkpoint, settings: EngineSettings, emit: Emit, constrainer: Constrainer, pulse: Pulse
) -> Built:
    from mosso.engine.gpu_build import build_gpu_engine  # imports Triton, which not every system has
    from mosso.kernels.gpu.compile import on_compile

    on_compile(pulse.compiling)
    engine = build_gpu_engine(checkpoint, settings, emit, constrainer)
    return engine.runner, engine.budget, engine.notes


def build_cpu(
    checkpoint: Checkpoint, settings: EngineSettings, emit: Emit, constrainer: Constrainer, pulse: Pulse
) -> Built:
    torch.set_num_threads(settings.num_threads)
    config, device = checkpoint.config, torch.device("cpu")
    dtype = getattr(torch, settings.dtype_name)
    operations = operations_for(device, dtype)
    budget = kv_budget(config, settings)
    experts, note = choose_experts(config, checkpoint.experts_format, operations, settings)
    emit(Progress("loading weights"))
    storage = dtype if experts == "expanded" else torch.bfloat16  # large: as stored, not twice the size
    weights = load_weights(checkpoint, dtype=dtype, storage=storage, experts=experts, device=device)
    kv = allocate_kv(config, budget, dtype, device)
    table = RowTable(settings.rows, budget.max_context, budget.page_size, device)
    runner = TorchRunner(
        table,
        Sampler(table, settings.rows, device, operations, constrainer),
        partial(forward, weights, config, kv, operations=operations, mark=pulse.mark),
    )
    idle = () if settings.gpu_memory == GPU_MEMORY else ("--gpu-memory bounds nothing: no GPU is used",)
    return runner, budget, (*idle, note, describe_kernels(operations, device))


def find_cuda(settings: EngineSettings) -> bool:
    """Whether the engine may run on a CUDA device: there is one, and nothing is asked that CUDA cannot do."""
    found = torch.cuda.is_available()
    if settings.device == "cuda" and not found:
        raise UsageError("--device cuda: this machine has no CUDA device that torch can use")
    return found and settings.suits_cuda


def allocate_kv(config: ModelConfig, budget: KVBudget, dtype: torch.dtype, device: torch.device) -> PagedKV:
    try:
        return PagedKV.allocate(
            config, budget.full_pages, budget.window_pages, budget.page_size, dtype, device
        )
    except RuntimeError as error:  # torch's OutOfMemoryError is one too
        size = f"{budget.total_bytes / MIB:,.0f} MiB"
        raise UsageError(f"--kv-memory: this machine does not give {size} of memory") from error


def scheduler_config(config: ModelConfig, budget: KVBudget, settings: EngineSettings) -> SchedulerConfig:
    return SchedulerConfig(
        page_size=budget.page_size,
        full_pages=budget.full_pages,
        window_pages=budget.window_pages,
        window=config.window,
        max_rows=settings.rows,
        token_budget=settings.budget,
        prefill_budget=settings.prefill_budget,
        max_context=budget.max_context,
        max_waiting=settings.max_waiting,
        prefix_cache=settings.prefix_cache,
        background_rows=settings.background_rows,
        max_slowdown=settings.max_slowdown,
    )


def expanded_bytes(config: ModelConfig, dtype_name: str) -> int:
    """Memory of all experts as plain matrices: gate and up, and down."""
    matrices = 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * config.num_experts * matrices * ELEMENT_BYTES[dtype_name]


def choose_experts(
    config: ModelConfig, stored: str, operations: Operations, settings: EngineSettings
) -> tuple[ExpertsForm, str]:
    """The experts' form in memory and a sentence that says so. A large model grows only when asked."""
    size = expanded_bytes(config, settings.dtype_name)
    dense = f"experts: {settings.dtype_name}, {size / MIB:,.0f} MiB"
    if settings.experts == "expanded":
        return "expanded", f"{dense}, as asked"
    if settings.experts == "packed":
        return "packed", "experts: MXFP4, as asked"
    if stored == "mxfp4":
        if operations is TWINS and size <= EXPANDED_LIMIT:
            return "expanded", f"{dense}: no kernel here reads MXFP4, and they are small"
        return "packed", "experts: MXFP4, as stored"
    if size > EXPANDED_LIMIT and settings.dtype_name != "bfloat16":
        raise UsageError(
            f"the checkpoint stores its experts as {stored}; as {settings.dtype_name} they take "
            f"{size / MIB:,.0f} MiB: ask for it with --experts expanded"
        )
    return "expanded", f"{dense}; stored as {stored}"


def describe_kernels(operations: Operations, device: torch.device) -> str:
    why = native.unavailable() if device.type == "cpu" and operations is TWINS else None
    return f"kernels: {operations.name}" + (f" ({why})" if why else "")


def describe_sizes(settings: EngineSettings) -> str:
    return (
        f"{settings.device}, preset {settings.preset}: --token-budget {settings.token_budget} "
        f"--prefill-budget {settings.prefill_budget} --max-rows {settings.max_rows}"
    )


def describe_kv(budget: KVBudget) -> str:
    return (
        f"KV cache: {budget.full_tokens:,} tokens in {budget.total_bytes / MIB:,.0f} MiB, "
        f"one request at most {budget.max_context:,}"
    )
