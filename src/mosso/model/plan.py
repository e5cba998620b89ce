"""What a model needs in memory, by arithmetic alone: no torch, no weights, nothing loaded.

    weights        every tensor of the schema at its size in memory; an expansion has a line of its own
    KV             2 (K and V) · kv_heads · head_dim · element bytes, a token and a layer; full layers keep
                   every token in pages, sliding layers only their window
    activations    a bound for one step of the token budget, and the logits of its rows

Pages are divided as the engine divides them: see model.kv_pages. On CUDA all that the engine takes beside
them is in model.gpu_plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mosso.checkpoint.config import ExpertsFormat
from mosso.checkpoint.schema import PACKED_DTYPES, TensorSpec, expected_tensors
from mosso.core.config import ModelConfig
from mosso.core.errors import UsageError
from mosso.model.gpu_plan import embedding_on_host, gpu_workspace, packed_bytes
from mosso.model.kv_pages import cached_window_pages, divide, most_pages, window_need

Dtype = Literal["float32", "bfloat16"]
KVDtype = Literal["float32", "bfloat16", "float8"]
ELEMENT_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float8": 1}
CONTEXTS = (8_192, 32_768, 131_072)  # the sequence lengths that the table shows


@dataclass(frozen=True, slots=True)
class MemoryLine:
    """One thing that takes memory."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What loading and running would take. Sizes in bytes."""

    config: ModelConfig
    weights: tuple[MemoryLine, ...]
    workspace: tuple[MemoryLine, ...]  # activations, logits, tables, the device's own
    kv_token_bytes: int  # in the full layers, for each token of a sequence
    window_sequence_bytes: int  # in the sliding layers, for each sequence, however long
    window_bytes: int  # window pages with which max_rows sequences can always run
    full_page_bytes: int
    window_page_bytes: int
    page_size: int
    max_rows: int
    token_budget: int
    memory: int | None  # what there is; None: unknown

    @property
    def weight_bytes(self) -> int:
        return sum(line.nbytes for line in self.weights)

    @property
    def fixed_bytes(self) -> int:
        """Everything but the full layers' KV."""
        return self.weight_bytes + sum(line.nbytes for line in self.workspace) + self.window_bytes

    @property
    def full_pages(self) -> int:
        """Pages of full-layer KV that fit the memory; 0 when it is unknown or too small."""
        left = max(0, (self.memory or 0) - self.fixed_bytes)
        most = most_pages(self.page_size, self.config.head_dim)
        return divide(left, self.full_page_bytes, self.window_page_bytes, need=0, most=most).full

    @property
    def cached_bytes(self) -> int:
        """Window pages beside the full ones, for cached prefixes."""
        return cached_window_pages(self.full_pages) * self.window_page_bytes

    @property
    def kv_tokens(self) -> int:
        return self.full_pages * self.page_size

    def sequences(self, context: int) -> int:
        """How many sequences of `context` tokens fit at once; never more than max_rows."""
        return min(self.max_rows, self.full_pages // -(-context // self.page_size))


def plan_memory(
    config: ModelConfig,
    *,
    experts_format: ExpertsFormat = "mxfp4",
    device: Literal["cpu", "cuda"] = "cuda",
    dtype: Dtype | None = None,
    storage: Dtype | None = None,
    kv_dtype: KVDtype | None = None,
    experts: Literal["packed", "expanded"] | None = None,
    page_size: int = 16,
    token_budget: int = 1024,
    max_rows: int = 64,
    memory: int | None = None,
) -> MemoryPlan:
    """The plan for loading a checkpoint of `experts_format` on a device with `memory` bytes.

    dtype, storage and experts are those of model.loading: what is computed in (None: float32 on the CPU,
    bfloat16 on CUDA); how dense matrices are held (None: BF16 as stored beside packed experts, else `dtype`);
    whether MXFP4 experts stay "packed" or are "expanded" to `storage` (None: as they are stored).
    kv_dtype: None is `dtype`. Raises UsageError for packed experts that are not stored so, and for sizes
    below 1.
    """
    for flag, value in (("page-size", page_size), ("token-budget", token_budget), ("max-rows", max_rows)):
        if value < 1:
            raise UsageError(f"--{flag} must be at least 1; it is {value}")
    if experts == "packed" and experts_format != "mxfp4":
        raise UsageError(
            f"the checkpoint stores its experts as {experts_format}, not MXFP4: plan them expanded"
        )
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    experts = experts or ("packed" if experts_format == "mxfp4" else "expanded")
    storage = storage or ("bfloat16" if experts == "packed" else dtype)
    position = 2 * config.num_kv_heads * config.head_dim * ELEMENT_BYTES[kv_dtype or dtype]
    weights = _weight_lines(config, experts_format, dtype, storage, experts == "expanded", device)
    if device == "cuda" and memory is not None:
        weights = _without_host_embedding(weights, memory)
    sliding = sum(config.sliding)
    window_page = page_size * position * sliding
    both_pages = page_size * position * config.num_layers
    return MemoryPlan(
        config=config,
        weights=weights,
        workspace=(
            _cuda_lines(config, token_budget, max_rows, page_size, both_pages)
            if device == "cuda"
            else _cpu_lines(config, token_budget, max_rows, dtype, experts == "packed")
        ),
        kv_token_bytes=position * (config.num_layers - sliding),
        window_sequence_bytes=position * sliding * config.window,
        window_bytes=window_need(config.window, page_size, max_rows, token_budget) * window_page,
        full_page_bytes=page_size * position * (config.num_layers - sliding),
        window_page_bytes=window_page,
        page_size=page_size,
        max_rows=max_rows,
        token_budget=token_budget,
        memory=memory,
    )


def _weight_lines(
    config: ModelConfig,
    experts_format: ExpertsFormat,
    dtype: Dtype,
    storage: Dtype,
    expanded: bool,
    device: str,
) -> tuple[MemoryLine, ...]:
    """Bytes in memory by kind: matrices in `storage`, biases in `dtype`, norms and sinks in float32."""
    sums: dict[str, int] = {}
    for name, spec in expected_tensors(config, experts_format).items():
        size = _resident_bytes(name, spec, dtype, storage, expanded, device)
        sums[spec.kind] = sums.get(spec.kind, 0) + size
    dense = "BF16" if storage == "bfloat16" else f"{storage}, expanded from BF16"
    if experts_format == "mxfp4":
        expert_form = f"{storage}, expanded from MXFP4" if expanded else "MXFP4, as stored"
    else:
        expert_form = dense
    forms = {"experts": expert_form, "norm": "float32"}
    titles = {"norm": "norms", "head": "output head"}
    return tuple(
        MemoryLine(f"{titles.get(kind, kind)} ({forms.get(kind, dense)})", nbytes)
        for kind, nbytes in sums.items()
    )


def _without_host_embedding(weights: tuple[MemoryLine, ...], memory: int) -> tuple[MemoryLine, ...]:
    if not embedding_on_host(sum(line.nbytes for line in weights), memory):
        return weights
    return tuple(
        MemoryLine(f"{line.name}: on the host", 0) if line.name.startswith("embedding") else line
        for line in weights
    )


def _resident_bytes(
    name: str, spec: TensorSpec, dtype: Dtype, storage: Dtype, expanded: bool, device: str
) -> int:
    elements = math.prod(spec.shape)
    if spec.dtypes is not PACKED_DTYPES:
        wide = spec.kind == "norm" or name.endswith("sinks")
        held = dtype if name.endswith("bias") else storage
        return elements * (4 if wide else ELEMENT_BYTES[held])
    if not expanded and device == "cuda":
        experts, rows, groups = spec.shape[:3]
        return packed_bytes(experts, rows, groups * 32)[name.endswith("_scales")]
    if not expanded:
        return elements
    return 0 if name.endswith("_scales") else 2 * elements * ELEMENT_BYTES[storage]  # two values a byte


def _cuda_lines(
    config: ModelConfig, token_budget: int, max_rows: int, page_size: int, scratch_bytes: int
) -> tuple[MemoryLine, ...]:
    need = gpu_workspace(config, token_budget, max_rows, page_size, scratch_bytes)
    return (
        MemoryLine(f"workspace of a step ({token_budget:,} tokens)", need.step),
        MemoryLine(f"tables of {max_rows:,} rows", need.tables),
        MemoryLine("rotary tables", need.rotary),
        MemoryLine("decode graphs (estimate)", need.graphs),
        MemoryLine("CUDA context, kernels, libraries (estimate)", need.context),
    )


def _cpu_lines(
    config: ModelConfig, token_budget: int, max_rows: int, dtype: Dtype, packed: bool
) -> tuple[MemoryLine, ...]:
    """Bounds: what lives at once in the widest part of a step, logits with a copy for sampling, tables."""
    heads, kv_heads = config.num_heads, config.num_kv_heads
    residual = 3 * config.hidden_size
    attention = (3 * heads + 3 * kv_heads) * config.head_dim  # q, k, v; q and k rotated; the heads' output
    moe = config.experts_per_token * (3 * config.intermediate_size + config.hidden_size)
    step = token_budget * (residual + max(attention, moe)) * ELEMENT_BYTES[dtype]
    lines = [
        MemoryLine(f"activations ({token_budget:,} tokens a step)", step),
        MemoryLine(f"logits ({max_rows:,} rows)", 2 * 4 * max_rows * config.vocab_size),
        MemoryLine("rotary tables", 4 * config.max_context * config.head_dim),
    ]
    if packed:
        one = 3 * config.hidden_size * config.intermediate_size * ELEMENT_BYTES[dtype]
        lines.append(MemoryLine(f"one expert at a time ({dtype}, expanded from MXFP4)", one))
    return tuple(lines)


def format_plan(plan: MemoryPlan) -> str:
    """The plan as a table of plain text."""
    config, full = plan.config, plan.config.num_layers - sum(plan.config.sliding)
    rows = [("weights", plan.weight_bytes), *_indented(plan.weights)]
    rows += [("workspace", sum(line.nbytes for line in plan.workspace)), *_indented(plan.workspace)]
    rows += [
        ("KV cache", None),
        (f"  each token, in {full} full layers", plan.kv_token_bytes),
        (f"  each sequence, windows of {config.window}", plan.window_sequence_bytes),
        (f"  windows of {plan.max_rows:,} sequences, in pages of {plan.page_size}", plan.window_bytes),
        ("all but the tokens", plan.fixed_bytes),
    ]
    width = max(len(name) for name, _ in rows) + 2
    count = config.parameters
    parameters = f"{count / 1e9:.4g} B" if count >= 1e9 else f"{count / 1e6:.3g} M"
    lines = [f"{config.num_layers} layers, {config.num_experts} experts, {parameters} parameters"]
    lines += [f"{name:<{width}}{'' if size is None else format_bytes(size):>12}" for name, size in rows]
    return "\n".join(line.rstrip() for line in lines + _fit_lines(plan, width))


def _fit_lines(plan: MemoryPlan, width: int) -> list[str]:
    if plan.memory is None:
        return []
    if plan.full_pages == 0:
        need = format_bytes(plan.fixed_bytes + plan.full_page_bytes - plan.memory)
        hint = "; smaller --max-rows and --token-budget need less" if plan.weight_bytes < plan.memory else ""
        return [f"does not fit {format_bytes(plan.memory)}: {need} are missing{hint}"]
    lines = [f"{f'tokens of KV that fit {format_bytes(plan.memory)}':<{width}}{plan.kv_tokens:>12,}"]
    for context in CONTEXTS:
        if context <= plan.config.max_context:
            lines.append(f"{f'  sequences of {context:,} tokens':<{width}}{plan.sequences(context):>12,}")
    return lines


def _indented(lines: tuple[MemoryLine, ...]) -> list[tuple[str, int | None]]:
    return [(f"  {line.name}", line.nbytes) for line in lines]


def format_bytes(count: int) -> str:
    """Binary units with three digits, e.g. "1.08 GiB"."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.3g} {units[0]}"
