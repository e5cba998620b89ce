"""The kernels that the GPU forward pass is made of, as one set that can be exchanged.

TRITON runs on a GPU (and, for tests, in Triton's interpreter); TWINS defines the same in plain torch, so that
the whole path runs on any machine. `deterministic()` gives a set whose every result depends on a token's own
numbers alone: one way for all sizes of batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from mosso.kernels.gpu import attention, head, launch, linear, moe, norm, rope, router, sampling
from mosso.kernels.gpu.linear import MOST_TOKENS
from mosso.kernels.sampling import Logprobs, restrict

Kernel = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class GpuOperations:
    """One implementation of each operation. Steps of up to few_tokens, and of up to some_tokens, have kernels
    of their own."""

    embed: Kernel
    rms_norm: Kernel
    add_rms_norm: Kernel
    combine: Callable[..., None]
    combine_rms_norm: Kernel
    linear: Kernel
    linear_small: Kernel
    qkv_small: Kernel
    rotate_and_store: Callable[..., None]
    decode_attention: Kernel
    prefill_attention: Kernel
    route: Callable[..., router.Routing]
    gate_up: Kernel
    down: Kernel
    head: Kernel
    head_sample: Kernel
    restrict: Callable[..., None]
    sample_truncated: Kernel
    logprobs: Callable[..., Logprobs]
    few_tokens: int = 2
    some_tokens: int = 16
    uniform: bool = False  # whether a result may not depend on what shares the batch


TRITON = GpuOperations(
    embed=norm.embed,
    rms_norm=norm.rms_norm,
    add_rms_norm=norm.add_rms_norm,
    combine=norm.combine,
    combine_rms_norm=norm.combine_rms_norm,
    linear=linear.library_linear,
    linear_small=linear.linear_small,
    qkv_small=linear.qkv_small,
    rotate_and_store=rope.rotate_and_store,
    decode_attention=attention.decode_attention,
    prefill_attention=attention.prefill_attention,
    route=router.route,
    gate_up=moe.gate_up,
    down=moe.down,
    head=head.head,
    head_sample=head.head_sample,
    restrict=sampling.restrict,
    sample_truncated=sampling.sample_truncated,
    logprobs=sampling.logprobs,
)
TWINS = GpuOperations(
    embed=norm.embed_twin,
    rms_norm=norm.rms_norm_twin,
    add_rms_norm=norm.add_rms_norm_twin,
    combine=norm.combine_twin,
    combine_rms_norm=norm.combine_rms_norm_twin,
    linear=linear.library_linear,
    linear_small=linear.linear_small_twin,
    qkv_small=linear.qkv_small_twin,
    rotate_and_store=rope.rotate_and_store_twin,
    decode_attention=attention.decode_attention_twin,
    prefill_attention=attention.prefill_attention_twin,
    route=router.route_twin,
    gate_up=moe.gate_up_twin,
    down=moe.down_twin,
    head=head.head_twin,
    head_sample=head.head_sample_twin,
    restrict=restrict,
    sample_truncated=sampling.sample_truncated_twin,
    logprobs=sampling.logprobs_twin,
)


def deterministic(operations: GpuOperations) -> GpuOperations:
    """The same with one choice of kernels and tiles for every number of tokens."""
    if operations is not TRITON:  # torch's products on the CPU are what they are
        return replace(operations, few_tokens=0, some_tokens=0, uniform=True)
    return replace(
        operations,
        linear=_uniform_linear,
        route=_uniform_route,
        gate_up=partial(moe.gate_up, tile=_EXPERTS_TILE),
        down=partial(moe.down, tile=_EXPERTS_TILE),
        head=partial(head.head, config=_HEAD_TILE),
        head_sample=partial(head.head_sample, config=_HEAD_TILE),
        few_tokens=0,
        some_tokens=0,
        uniform=True,
    )


_LINEAR_TILE = linear.Tiling(dot=True, rows=64, depth=64, warps=4, stages=4, splits=2)
_EXPERTS_TILE = moe.Tile(rows=64, pairs=16, chunks=5, warps=4, stages=3)
_HEAD_TILE = head.TileConfig(block_v=128, block_s=64, block_k=64, stages=3, warps=4)
_ROUTER_TOKENS = 64  # the router's tiles are those of so many tokens


def _uniform_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    parts = [linear.linear_small(part, weight, bias, config=_LINEAR_TILE) for part in x.split(MOST_TOKENS)]
    return parts[0] if len(parts) == 1 and out is None else torch.cat(parts, out=out)


def _uniform_route(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    top_k: int,
    active: torch.Tensor,
    *,
    norm: linear.Norm | None = None,
    counts: torch.Tensor | None = None,
) -> router.Routing:
    tiles = router.tiling(_ROUTER_TOKENS, weight.shape[0], launch.shared_memory(x.device))
    return router.route(x, weight, bias, top_k, active, norm=norm, counts=counts, config=tiles)
