"""Matrix products with a row for each token."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [T, K] · weight [N, K]ᵀ + bias [N] → [T, N] in x's type, to which a narrower weight widens."""
    return F.linear(x, weight.to(x.dtype), bias)


def embed(tokens: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of weight [V, H] for tokens [...] → [..., H] as `dtype`."""
    return F.embedding(tokens, weight).to(dtype)


def head(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Output logits, float32 [S, V], of x [S, H] with the untied weight [V, H]."""
    return linear(x, weight).float()
