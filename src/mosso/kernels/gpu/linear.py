"""Dense products of few tokens (T ≤ 64): bound by the read of the weights, so they stream them once."""

from __future__ import annotations

import torch

from mosso.kernels.gpu.norm import rms_norm_twin
from mosso.kernels.gpu.rope import rotate_and_store_twin
from mosso.kernels.linear import linear

Norm = tuple[torch.Tensor, float]  # weight float32 [K], eps


def linear_small(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm: Norm | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """x [T, K] · weight [N, K]ᵀ + bias [N] for T ≤ 64 → [T, N] in weight's type.

    With `norm`, x is the float32 stream and is normed on the way. With `residual` (float32 [T, N]) the
    product is added to it in place, unrounded, and it is returned.
    """
    return linear_small_twin(x, weight, bias, norm=norm, residual=residual)


def linear_small_twin(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm: Norm | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    if norm is not None:
        x = rms_norm_twin(x, *norm, weight.dtype)
    y = linear(x.float(), weight, None if bias is None else bias.float())
    if residual is None:
        return y.to(weight.dtype)
    residual += y
    return residual


def qkv_small(
    x: torch.Tensor,
    norm: Norm,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    pages: torch.Tensor,
    pool: torch.Tensor,
) -> torch.Tensor:
    """Norm, QKV product, rotation and the write into the pool, for T ≤ 16 → queries [T, heads, D].

    x float32 [T, H], weight [(heads + 2·KV)·D, H], bias [(heads + 2·KV)·D]; the others as in
    `rope.rotate_and_store`. Queries come in weight's type.
    """
    return qkv_small_twin(x, norm, weight, bias, cos, sin, rows, positions, pages, pool)


def qkv_small_twin(
    x: torch.Tensor,
    norm: Norm,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    pages: torch.Tensor,
    pool: torch.Tensor,
) -> torch.Tensor:
    qkv = linear_small_twin(x, weight, bias, norm=norm)
    rotate_and_store_twin(qkv, cos, sin, rows, positions, pages, pool)
    return qkv.unflatten(1, (-1, pool.shape[-1]))[:, : -2 * pool.shape[1]]
