"""Writing keys and values into their pages."""

from __future__ import annotations

import torch

from mosso.kernels.rope import apply_rope


def rotate_and_store(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, pool: torch.Tensor, slots: torch.Tensor
) -> torch.Tensor:
    """Rotates queries and keys of qkv [T, H + 2·KV, D] by tables [T, D / 2]; stores keys and values.

    pool [2, KV, pages, page_size, D], slots int64 [T] = page id · page_size + offset, all different.
    Returns the queries [T, H, D].
    """
    kv_heads = pool.shape[1]
    heads = qkv.shape[1] - 2 * kv_heads
    rotated = apply_rope(qkv[:, : heads + kv_heads], cos, sin)
    write_kv(pool, slots, torch.stack((rotated[:, heads:], qkv[:, heads + kv_heads :]), dim=1))
    return rotated[:, :heads]


def write_kv(pool: torch.Tensor, slots: torch.Tensor, kv: torch.Tensor) -> None:
    """Stores keys and values kv [T, 2, KV, D] into the pool, in the pool's type."""
    pool.flatten(2, 3).index_copy_(2, slots, kv.permute(1, 2, 0, 3).to(pool.dtype))
