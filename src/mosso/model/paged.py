"""The forward pass over paged keys and values: prefill chunks and decode rows in one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mosso.core.config import ModelConfig
from mosso.kernels.linear import embed
from mosso.kernels.operations import Operations, operations_for
from mosso.kernels.rope import rope_tables
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
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> PagedKV:
        """Pools of so many pages for each group; every layer of a group has its own.

        rotary: tables that there are already.
        """
        pools = tuple(
            torch.empty(  # on the CPU a page takes no memory before it is first written
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
        if rotary is None:
            positions = torch.arange(config.max_context, device=device)
            rotary = rope_tables(config.rope, config.head_dim, positions)
        return cls(pools, *rotary, page_size)

    @property
    def rotary(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cos, self.sin


def kv_bytes_per_page(config: ModelConfig, page_size: int, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of one page over all layers of its group: (full group, window group)."""
    layer = 2 * config.num_kv_heads * page_size * config.head_dim * dtype.itemsize
    sliding = sum(config.sliding)
    return layer * (config.num_layers - sliding), layer * sliding


@dataclass(frozen=True, slots=True)
class _Step:
    """What every layer of one step shares."""

    config: ModelConfig
    ops: Operations
    inputs: StepInputs
    cos: torch.Tensor  # [T, D / 2]
    sin: torch.Tensor
    full_slots: torch.Tensor  # int64 [T], where each token's key and value go
    window_slots: torch.Tensor


@torch.inference_mode()
def forward(
    weights: Weights,
    config: ModelConfig,
    kv: PagedKV,
    inputs: StepInputs,
    operations: Operations | None = None,
    mark: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Writes the step's keys and values into their pages; returns logits, float32 [S, V], at sample_at.

    Every earlier position of each row must have been computed by an earlier step, into the pages that the
    row's tables name. `operations` are the device's fastest unless given; with the native ones a token's
    logits are the same to the bit however its sequence was cut into steps and whatever shared them.
    `mark` is called after each half of a layer: a large step takes long on a CPU; this shows that it moves.
    """
    mark = mark or _unmarked
    step = _prepare(config, kv, inputs, operations or operations_for(weights.device, weights.dtype))
    x = embed(inputs.tokens, weights.embedding, weights.dtype)
    for layer, pool, sliding in zip(weights.layers, kv.pools, config.sliding, strict=True):
        x = x + _attention_block(x, layer, pool, step, sliding)
        mark()
        x = x + _expert_block(x, layer, step)
        mark()
    wanted = step.ops.rms_norm(x[inputs.sample_at], weights.norm, config.rms_norm_eps)
    return step.ops.linear(wanted, weights.head).float()


def _unmarked() -> None:
    """Nobody watches."""


def _prepare(config: ModelConfig, kv: PagedKV, inputs: StepInputs, ops: Operations) -> _Step:
    counts = (inputs.query_starts[1:] - inputs.query_starts[:-1]).long()
    rows = torch.repeat_interleave(counts, output_size=inputs.tokens.shape[0])
    logical, offset = inputs.positions // kv.page_size, inputs.positions % kv.page_size

    def slots(pages: torch.Tensor) -> torch.Tensor:
        return pages[rows, logical].long() * kv.page_size + offset

    return _Step(
        config,
        ops,
        inputs,
        kv.cos[inputs.positions],
        kv.sin[inputs.positions],
        slots(inputs.full_pages),
        slots(inputs.window_pages),
    )


def _attention_block(
    x: torch.Tensor, layer: LayerWeights, pool: torch.Tensor, step: _Step, sliding: bool
) -> torch.Tensor:
    ops, config, inputs = step.ops, step.config, step.inputs
    slots, pages, window = (
        (step.window_slots, inputs.window_pages, config.window)
        if sliding
        else (step.full_slots, inputs.full_pages, None)
    )
    normed = ops.rms_norm(x, layer.attention_norm, config.rms_norm_eps)
    qkv = ops.linear(normed, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, config.head_dim))
    q = ops.rotate_and_store(qkv, step.cos, step.sin, pool, slots)
    gathered = ops.paged_attention(
        q, pool, pages, layer.sinks, inputs.query_starts, inputs.context_lens, window
    )
    return ops.linear(gathered.flatten(-2), layer.out, layer.out_bias)


def _expert_block(x: torch.Tensor, layer: LayerWeights, step: _Step) -> torch.Tensor:
    ops, config = step.ops, step.config
    normed = ops.rms_norm(x, layer.mlp_norm, config.rms_norm_eps)
    return ops.moe(
        normed, layer.router, layer.router_bias, layer.experts, config.experts_per_token, config.swiglu_limit
    )
