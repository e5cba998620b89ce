"""Dense products of a few tokens in CUDA: bfloat16 weights go straight to registers (cuda/dense.cu)."""

from __future__ import annotations

import torch

from mosso.kernels.gpu import cuda, launch

CHUNK = 32  # columns
MOST_TOKENS = 64
_LEAD = 8  # chunks of weights under way


def streams(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether linear_stream takes this product."""
    rows, columns = weight.shape
    exact = rows % 16 == 0 and columns % CHUNK == 0
    both = x.dtype == weight.dtype == torch.bfloat16
    return launch.ptx(x.device) and both and exact and x.shape[0] <= MOST_TOKENS and x.is_contiguous()


def shares(columns: int) -> int:
    """Warps of a block, which share the columns: about 16 chunks each."""
    return max(1, min(16, round(columns / CHUNK / 15)))


def linear_stream(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None = None,
    *,
    warps: int | None = None,
    lead: int = _LEAD,
) -> torch.Tensor:
    """x [T, K] · weight [N, K]ᵀ + bias [N], all bfloat16 → [T, N]; with `residual` float32 [T, N] added to it.

    What `linear_small` computes without a norm, for those that `streams` takes.
    """
    tokens, columns = x.shape
    rows = weight.shape[0]
    out = residual if residual is not None else torch.empty(tokens, rows, dtype=x.dtype, device=x.device)
    warps = warps or shares(columns)
    defines = (
        ("ROWS", rows),
        ("CHUNKS", columns // CHUNK),
        ("WARPS", warps),
        ("LEAD", lead),
        ("TILES", 1 << max(0, (tokens - 1) // 8).bit_length()),
        ("RESIDUAL", residual is not None),
    )
    cuda.kernel("dense.cu", "dense_product", defines, x.device).launch(
        (rows // 16, 1), 32 * warps, (x, weight, bias, out, tokens)
    )
    return out
