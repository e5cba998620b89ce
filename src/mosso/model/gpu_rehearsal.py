"""Every step that a GPU engine may run, on meta tensors: what `kernels.gpu.compile.plan` needs to see.

The model has one layer of each kind, which launch what all layers launch. Sizes of steps are so dense that
every choice which depends on the number of tokens is made at least once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mosso.core.config import ModelConfig
from mosso.kernels.gpu.moe import GpuExperts
from mosso.kernels.gpu.mxfp4_layout import packed_shapes
from mosso.model.gpu_forward import GpuModel, GpuSpans, GpuStep, forward
from mosso.model.gpu_operations import TRITON, GpuOperations
from mosso.model.gpu_weights import GpuLayer, GpuWeights
from mosso.model.paged import PagedKV

META = torch.device("meta")
LOGPROBS = 20  # the most that a request may ask for; none has kernels of its own


@dataclass(frozen=True, slots=True)
class Workload:
    """What an engine will run, as far as kernels depend on it."""

    config: ModelConfig
    max_tokens: int  # of a step
    max_rows: int  # decode tokens of a step
    max_context: int
    page_size: int = 16
    dtype: torch.dtype = torch.bfloat16
    kv_dtype: torch.dtype = torch.bfloat16
    ops: GpuOperations = TRITON

    @property
    def decode_sizes(self) -> list[int]:
        return step_sizes(1, self.max_rows)

    @property
    def span_sizes(self) -> list[int]:
        return step_sizes(1, self.max_tokens)


def step_sizes(least: int, most: int) -> list[int]:
    """Sizes from `least` to `most` with no gap above a quarter, each round one with its neighbour above."""
    powers = [1 << power for power in range(most.bit_length())]
    between = {power + part * power // 4 + odd for power in powers for part in range(4) for odd in (0, 1)}
    return sorted({size for size in between if least <= size <= most} | {least, most})


def rehearse(work: Workload) -> None:
    """Launch all that the engine may launch. Only for meta tensors' chip: see kernels.gpu.launch."""
    model = _model(work)
    for size in work.decode_sizes:
        _sample(model, forward(model, _step(size, None)))
    for size in work.span_sizes:
        forward(model, _step(0, size))
        forward(model, _step(1, size))


def _step(decodes: int, span: int | None) -> GpuStep:
    tokens = decodes + (span or 0)
    spans = None if span is None else GpuSpans(_ints(1), _ints(2), _ints(1), span)
    sample_at = None if span is None else _ints(decodes + 1)
    return GpuStep(_ints(tokens), _ints(tokens), _ints(1), decodes, spans, sample_at)


def _sample(model: GpuModel, h: torch.Tensor) -> None:
    """Every way from the stream to tokens."""
    ops, rows = model.ops, len(h)
    seed, position, temperature = _empty(rows, dtype=torch.int64), _ints(rows), _floats(rows)
    write = (model.tokens, _ints(rows), _ints(rows))
    ops.head_sample(h, model.weights.head, temperature, seed, position, norm=model.head_norm, write=write)
    logits = ops.head(h, model.weights.head, norm=model.head_norm)
    ops.restrict(logits, _ints(rows), _ints(rows, -(-logits.shape[1] // 32)))
    limits = (_ints(rows), _floats(rows), _floats(rows))
    tokens = ops.sample_truncated(logits, temperature, *limits, seed, position, write=write)
    ops.logprobs(logits, tokens, LOGPROBS)


def _model(work: Workload) -> GpuModel:
    config = replace(work.config, num_layers=2, sliding=(True, False))
    pages = -(-work.max_context // work.page_size)
    kv = PagedKV.allocate(config, pages, pages, work.page_size, work.kv_dtype, META)
    layers = tuple(_layer(config, work.dtype) for _ in range(config.num_layers))
    table = (config.vocab_size, config.hidden_size)
    weights = GpuWeights(
        embedding=_empty(*table, dtype=work.dtype), layers=layers, norm=_floats(config.hidden_size),
        head=_empty(*table, dtype=work.dtype),
    )  # fmt: skip
    rows = work.max_rows + 1  # one for padding
    return GpuModel(weights, config, kv, _ints(rows, work.max_context), _ints(2, rows, pages), work.ops)


def _layer(config: ModelConfig, dtype: torch.dtype) -> GpuLayer:
    hidden, q = config.hidden_size, config.num_heads * config.head_dim
    width = q + 2 * config.num_kv_heads * config.head_dim
    return GpuLayer(
        attention_norm=_floats(hidden),
        qkv=_empty(width, hidden, dtype=dtype),
        qkv_bias=_empty(width, dtype=dtype),
        sinks=_floats(config.num_heads),
        out=_empty(hidden, q, dtype=dtype),
        out_bias=_empty(hidden, dtype=dtype),
        mlp_norm=_floats(hidden),
        router=_empty(config.num_experts, hidden, dtype=dtype),
        router_bias=_empty(config.num_experts, dtype=dtype),
        experts=_experts(config, dtype),
    )


def _experts(config: ModelConfig, dtype: torch.dtype) -> GpuExperts:
    num, hidden, inner = config.num_experts, config.hidden_size, config.intermediate_size

    def packed(rows: int, columns: int) -> list[torch.Tensor]:
        return [_empty(*shape, dtype=torch.int16) for shape in packed_shapes(num, rows, columns)]

    (gate_up, gate_up_scales), (down, down_scales) = packed(2 * inner, hidden), packed(hidden, inner)
    return GpuExperts(
        gate_up, gate_up_scales, _empty(num, 2 * inner, dtype=dtype),
        down, down_scales, _empty(num, hidden, dtype=dtype),
    )  # fmt: skip


def _empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def _ints(*shape: int) -> torch.Tensor:
    return _empty(*shape, dtype=torch.int32)


def _floats(*shape: int) -> torch.Tensor:
    return _empty(*shape, dtype=torch.float32)
