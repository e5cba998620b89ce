"""The forward pass over paged keys and values: prefill chunks and decode rows in one batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosso.core.config import ModelConfig
from mosso.kernels.attention import paged_attention, write_kv
from mosso.kernels.experts import moe
from mosso.kernels.linear import embed, head, linear
from mosso.kernels.norm import rms_norm
from mosso.kernels.rope import apply_rope, rope_tables
from mosso.model.inputs import StepInputs
from mosso.model.weights import LayerWeights, Weights


@dataclass(frozen=True, slots=True)
class PagedKV:
    """Keys and values of every sequence, and the rotary tables of every position.

    A layer's pool is [2, KV, pages, page_size, D]: keys, then values; a head's page is contiguous. Sliding
    layers use the window group's page ids, the others the full group's. Who holds which page is decided by
    the scheduler; this only owns the memory.
    """

    pools: tuple[torch.Tensor, ...]  # by layer
    cos: torch.Tensor  # float32 [max_context, D / 2]
    sin: torch.Tensor
    page_size: int

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        full_pages: int,
        window_pages: int,
        page_size: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> PagedKV:
        """Pools of so many pages for each group; every layer of a group has its own."""
        pools = tuple(
            torch.zeros(
                2,
                config.num_kv_heads,
                window_pages if sliding else full_pages,
                page_size,
                config.head_dim,
                dtype=dtype,
                device=device,
            )
            for sliding in config.sliding
        )
        positions = torch.arange(config.max_context, device=device)
        return cls(pools, *rope_tables(config.rope, config.head_dim, positions), page_size)


def kv_bytes_per_page(config: ModelConfig, page_size: int, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of one page over all layers of its group: (full group, window group)."""
    layer = 2 * config.num_kv_heads * page_size * config.head_dim * dtype.itemsize
    sliding = sum(config.sliding)
    return layer * (config.num_layers - sliding), layer * sliding


@dataclass(frozen=True, slots=True)
class _Step:
    """What every layer of one step shares."""

    cos: torch.Tensor  # [T, D / 2]
    sin: torch.Tensor
    full_slots: torch.Tensor  # int64 [T], where each token's key and value go
    window_slots: torch.Tensor
    inputs: StepInputs


@torch.inference_mode()
def forward(weights: Weights, config: ModelConfig, kv: PagedKV, inputs: StepInputs) -> torch.Tensor:
    """Writes the step's keys and values into their pages; returns logits, float32 [S, V], at sample_at.

    Every earlier position of each row must have been computed by an earlier step, into the pages that the
    row's tables name.
    """
    step = _prepare(kv, inputs)
    x = embed(inputs.tokens, weights.embedding, weights.dtype)
    for layer, pool, sliding in zip(weights.layers, kv.pools, config.sliding, strict=True):
        x = x + _attention_block(x, layer, config, pool, step, sliding)
        x = x + _expert_block(x, layer, config)
    wanted = rms_norm(x[inputs.sample_at], weights.norm, config.rms_norm_eps)
    return head(wanted, weights.head)


def _prepare(kv: PagedKV, inputs: StepInputs) -> _Step:
    counts = (inputs.query_starts[1:] - inputs.query_starts[:-1]).long()
    rows = torch.repeat_interleave(counts, output_size=inputs.tokens.shape[0])
    logical, offset = inputs.positions // kv.page_size, inputs.positions % kv.page_size

    def slots(pages: torch.Tensor) -> torch.Tensor:
        return pages[rows, logical].long() * kv.page_size + offset

    return _Step(
        kv.cos[inputs.positions],
        kv.sin[inputs.positions],
        slots(inputs.full_pages),
        slots(inputs.window_pages),
        inputs,
    )


def _attention_block(
    x: torch.Tensor,
    layer: LayerWeights,
    config: ModelConfig,
    pool: torch.Tensor,
    step: _Step,
    sliding: bool,
) -> torch.Tensor:
    heads, kv_heads = config.num_heads, config.num_kv_heads
    normed = rms_norm(x, layer.attention_norm, config.rms_norm_eps)
    qkv = linear(normed, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, config.head_dim))
    rotated = apply_rope(qkv[:, : heads + kv_heads], step.cos, step.sin)
    q, k, v = rotated[:, :heads], rotated[:, heads:], qkv[:, heads + kv_heads :]
    write_kv(pool, step.window_slots if sliding else step.full_slots, torch.stack((k, v), dim=1))
    gathered = paged_attention(
        q,
        pool,
        step.inputs.window_pages if sliding else step.inputs.full_pages,
        layer.sinks,
        step.inputs.counts,
        step.inputs.contexts,
        config.window if sliding else None,
    )
    return linear(gathered.flatten(-2), layer.out, layer.out_bias)


def _expert_block(x: torch.Tensor, layer: LayerWeights, config: ModelConfig) -> torch.Tensor:
    normed = rms_norm(x, layer.mlp_norm, config.rms_norm_eps)
    return moe(
        normed, layer.router, layer.router_bias, layer.experts, config.experts_per_token, config.swiglu_limit
    )
