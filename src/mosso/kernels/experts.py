"""The mixture-of-experts layer: router, chosen experts, weighted sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosso.kernels.linear import linear
from mosso.kernels.mxfp4 import dequantize
from mosso.kernels.swiglu import swiglu


@dataclass(frozen=True, slots=True)
class ExpandedExperts:
    """E experts as dense matrices. Gates and ups interleave on gate_up's output axis."""

    gate_up: torch.Tensor  # [E, 2·I, H]
    gate_up_bias: torch.Tensor  # [E, 2·I]
    down: torch.Tensor  # [E, H, I]
    down_bias: torch.Tensor  # [E, H]

    def matrices(self, expert: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return self.gate_up[expert].to(dtype), self.down[expert].to(dtype)


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """E experts in MXFP4 as stored; one expert is expanded at a time, and only if a token chose it."""

    gate_up_blocks: torch.Tensor  # uint8 [E, 2·I, H/32, 16]
    gate_up_scales: torch.Tensor  # uint8 [E, 2·I, H/32]
    gate_up_bias: torch.Tensor  # [E, 2·I]
    down_blocks: torch.Tensor  # uint8 [E, H, I/32, 16]
    down_scales: torch.Tensor  # uint8 [E, H, I/32]
    down_bias: torch.Tensor  # [E, H]

    def matrices(self, expert: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            dequantize(self.gate_up_blocks[expert], self.gate_up_scales[expert], dtype),
            dequantize(self.down_blocks[expert], self.down_scales[expert], dtype),
        )


Experts = ExpandedExperts | PackedExperts


def route(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The top_k experts of each row of x [T, H]: ids int64 [T, k], best first, and shares float32 [T, k].

    The shares are a softmax over the chosen logits only, so they sum to one.
    """
    logits, chosen = linear(x, weight, bias).topk(top_k, dim=-1)
    return chosen, logits.float().softmax(-1)


def mix(
    x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor, experts: Experts, limit: float
) -> torch.Tensor:
    """Σ share · expert(x) for x [T, H], ids and shares [T, k] → [T, H] in x's type.

    Summed in float32 by ascending expert id, so a row's result does not hang on its neighbours.
    """
    total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in chosen.unique().tolist():
        rows, slots = torch.where(chosen == expert)
        gate_up, down = experts.matrices(expert, x.dtype)
        hidden = swiglu(linear(x[rows], gate_up, experts.gate_up_bias[expert]), limit)
        result = linear(hidden, down, experts.down_bias[expert])
        total = total.index_add(0, rows, result.float() * shares[rows, slots, None])
    return total.to(x.dtype)


def moe(
    x: torch.Tensor,
    router: torch.Tensor,
    router_bias: torch.Tensor,
    experts: Experts,
    top_k: int,
    limit: float,
) -> torch.Tensor:
    """The whole layer for x [T, H], with router [E, H] and router_bias [E] → [T, H]."""
    chosen, shares = route(x, router, router_bias, top_k)
    return mix(x, chosen, shares, experts, limit)
