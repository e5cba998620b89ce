"""Puts one engine together from its settings: the composition root of the child process."""

from __future__ import annotations

import queue
from collections.abc import Callable
from functools import partial

import torch

from mosso.checkpoint import open_checkpoint
from mosso.core.config import ModelConfig
from mosso.core.errors import UsageError
from mosso.core.requests import EngineLimits
from mosso.engine.loop import EngineLoop
from mosso.engine.memory import KVBudget, kv_budget
from mosso.engine.messages import FromEngine, Progress, Ready, ToEngine
from mosso.engine.runner import TorchRunner
from mosso.engine.sampler import Sampler
from mosso.engine.settings import EXPANDED_LIMIT, MIB, EngineSettings
from mosso.engine.table import RowTable
from mosso.kernels import native
from mosso.kernels.operations import TWINS, Operations, operations_for
from mosso.model.loading import load_weights
from mosso.model.paged import PagedKV, forward
from mosso.model.plan import ELEMENT_BYTES
from mosso.model.weights import ExpertsForm
from mosso.scheduler import Scheduler, SchedulerConfig


def build_loop(
    settings: EngineSettings, inbox: queue.SimpleQueue[ToEngine], emit: Callable[[FromEngine], None]
) -> tuple[EngineLoop, Ready]:
    """Load the model and return the loop with the message that says so.

    Raises UsageError for settings that cannot be had here, CheckpointError for a damaged model.
    """
    device = open_device(settings)
    dtype = getattr(torch, settings.dtype_name)
    operations = operations_for(device, dtype)
    emit(Progress("reading the checkpoint"))
    with open_checkpoint(settings.model) as checkpoint:
        config = checkpoint.config
        budget = kv_budget(config, settings)
        experts, note = choose_experts(config, checkpoint.experts_format, operations, settings)
        emit(Progress("loading weights"))
        storage = dtype if experts == "expanded" else torch.bfloat16  # large: as stored, not twice the size
        weights = load_weights(checkpoint, dtype=dtype, storage=storage, experts=experts, device=device)
    kv = allocate_kv(config, budget, dtype, device)
    table = RowTable(settings.max_rows, budget.max_context, budget.page_size, device)
    limits = EngineLimits(budget.max_context, budget.full_tokens, settings.max_rows, config.vocab_size)
    loop = EngineLoop(
        Scheduler(scheduler_config(config, budget, settings)),
        TorchRunner(
            table,
            Sampler(table, settings.max_rows, device, operations),
            partial(forward, weights, config, kv, operations=operations),
        ),
        inbox,
        emit,
        limits,
        check=settings.check,
    )
    return loop, Ready(limits, notes=(note, describe_kernels(operations, device), describe_kv(budget)))


def open_device(settings: EngineSettings) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine has no CUDA device that torch can use")
    torch.set_num_threads(settings.num_threads)
    return torch.device(settings.device)


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
        max_rows=settings.max_rows,
        token_budget=settings.token_budget,
        max_context=budget.max_context,
        max_waiting=settings.max_waiting,
        prefix_cache=settings.prefix_cache,
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


def describe_kv(budget: KVBudget) -> str:
    return (
        f"KV cache: {budget.full_tokens:,} tokens in {budget.total_bytes / MIB:,.0f} MiB, "
        f"one request at most {budget.max_context:,}"
    )
