"""The router: which experts each token goes to, and each expert's list of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosso.kernels.gpu.linear import Norm
from mosso.kernels.gpu.norm import rms_norm_twin
from mosso.kernels.linear import linear


@dataclass(frozen=True, slots=True)
class Routing:
    """T tokens and the k experts of each. A pair is (token, slot), numbered token·k + slot.

    Padding tokens (t ≥ active) are counted nowhere, and E stands for each of their experts.
    """

    chosen: torch.Tensor  # int32 [T, k], best first, of equals the lower id first
    shares: torch.Tensor  # float32 [T, k], softmax over the chosen logits
    counts: torch.Tensor  # int32 [E], pairs of each expert
    lists: torch.Tensor  # int32 [E, T], lists[e, :counts[e]] are the pairs of expert e in any order
    normed: torch.Tensor  # [T, H], what the logits were computed from and the experts read


def route(
    x: torch.Tensor,
    router: torch.Tensor,
    bias: torch.Tensor,
    top_k: int,
    active: torch.Tensor,
    *,
    norm: Norm | None = None,
) -> Routing:
    """The top_k experts of each row of x [T, H] by logits x · router [E, H]ᵀ + bias [E]; E a power of two.

    active int32 [1]: the first padding token. With `norm`, x is the float32 stream: it is normed, rounded to
    router's type, and kept as `normed`; without it x is of that type and is `normed` itself.
    """
    return route_twin(x, router, bias, top_k, active, norm=norm)


def route_twin(
    x: torch.Tensor,
    router: torch.Tensor,
    bias: torch.Tensor,
    top_k: int,
    active: torch.Tensor,
    *,
    norm: Norm | None = None,
) -> Routing:
    tokens, experts = x.shape[0], router.shape[0]
    normed = x if norm is None else rms_norm_twin(x, *norm, router.dtype)
    logits = linear(normed.float(), router, bias.float())
    best, chosen = logits.sort(dim=-1, descending=True, stable=True)
    padding = (torch.arange(tokens, device=x.device) >= active)[:, None]
    chosen = chosen[:, :top_k].masked_fill(padding, experts).int()
    shares = best[:, :top_k].softmax(-1).masked_fill(padding, 0)
    counts = torch.zeros(experts, dtype=torch.int32, device=x.device)
    lists = torch.zeros(experts, tokens, dtype=torch.int32, device=x.device)
    for expert in range(experts):
        pairs = torch.where(chosen.flatten() == expert)[0]
        counts[expert] = len(pairs)
        lists[expert, : len(pairs)] = pairs
    return Routing(chosen, shares, counts, lists, normed)
