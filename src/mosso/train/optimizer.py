"""Muon for the hidden matrices, AdamW for everything else, and the learning-rate schedule.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon): momentum, then the nearest semi-orthogonal
matrix by a Newton-Schulz iteration. Matrices of one shape are orthogonalised as one batch; the experts of a
layer are a batch by themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic's coefficients, from the post above
_ITERATIONS = 5


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """[N, r, c] → each matrix's singular values pushed to about 1, in bfloat16 as the method allows."""
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-1, -2)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(-1, -2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.transpose(-1, -2) if tall else x


class Muon(torch.optim.Optimizer):
    """For parameters [..., r, c] whose last two axes are matrices."""

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; gradients must be there for every parameter."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for param in group["params"]:
                by_shape[param.shape[-2:]].append(param)
            for (rows, columns), params in by_shape.items():
                updates = orthogonalize(torch.cat([self._nesterov(p, group["momentum"]) for p in params]))
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                sizes = [param.numel() // (rows * columns) for param in params]
                for param, update in zip(params, updates.split(sizes), strict=True):
                    param.mul_(1 - group["lr"] * group["weight_decay"])
                    param.add_(update.view_as(param), alpha=-rate)

    def _nesterov(self, param: nn.Parameter, momentum: float) -> torch.Tensor:
        """The look-ahead gradient of one parameter, [N, r, c]."""
        assert param.grad is not None
        buffer = self.state[param].setdefault("momentum", torch.zeros_like(param))
        buffer.lerp_(param.grad, 1 - momentum)
        return param.grad.lerp(buffer, momentum).view(-1, *param.shape[-2:])


_EMBEDDING_RATE = 5.0  # each row of the embedding is seen rarely, so it moves further when it is


def make_optimizers(network: nn.Module, *, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon takes the matrices of the blocks, except the router's, whose rows are independent classifiers."""
    hidden, tables, others = [], [], []
    for name, param in network.named_parameters():
        if not param.requires_grad:
            continue
        if name == "embedding":
            tables.append(param)
        elif "blocks" in name and name.endswith("_weight") and "router" not in name:
            hidden.append(param)
        else:
            others.append(param)
    groups: list[dict[str, Any]] = [{"params": tables, "lr": adam_lr * _EMBEDDING_RATE}, {"params": others}]
    return [
        Muon(hidden, lr=muon_lr, weight_decay=0.05),
        torch.optim.AdamW(groups, lr=adam_lr, betas=(0.9, 0.98), eps=1e-10, weight_decay=0.0),
    ]


def rate_at(progress: float, *, warmup: float = 0.01, decay_from: float = 0.4) -> float:
    """Factor on the learning rate: linear warm-up, a plateau, then linear decay to zero at progress 1."""
    if progress < warmup:
        return progress / warmup
    if progress < decay_from:
        return 1.0
    return max(0.0, (1.0 - progress) / (1.0 - decay_from))
