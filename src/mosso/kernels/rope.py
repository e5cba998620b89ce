"""Rotary position embedding with YaRN scaling (arXiv 2104.09864, 2309.00071)."""

from __future__ import annotations

import math

import torch

from mosso.core.config import YarnRope


def correction_range(rope: YarnRope, head_dim: int) -> tuple[float, float]:
    """Frequency slots between which YaRN moves from extrapolation to interpolation.

    A slot turns `beta` times within the original context at index
    head_dim/2 · ln(original / (2π·beta)) / ln(theta). Not rounded (truncate=False).
    """

    def slot(beta: float) -> float:
        turns = rope.original_max_positions / (beta * 2 * math.pi)
        return head_dim / 2 * math.log(turns) / math.log(rope.theta)

    return slot(rope.beta_fast), slot(rope.beta_slow)


def concentration(rope: YarnRope) -> float:
    """The factor on cos and sin that sharpens attention over a stretched context."""
    return 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0


def inverse_frequencies(rope: YarnRope, head_dim: int, device: torch.device | None = None) -> torch.Tensor:
    """Radians a position for each slot, float32 [head_dim / 2].

    In float32 throughout, as the model was trained: at position 100,000 a rounding of these shows.
    """
    slots = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    frequencies = rope.theta ** (slots / head_dim)
    if rope.factor <= 1:
        return 1.0 / frequencies
    low, high = correction_range(rope, head_dim)
    ramp = ((slots / 2 - low) / max(high - low, 1e-3)).clamp(0, 1)
    keep = 1 - ramp
    return 1.0 / (rope.factor * frequencies) * (1 - keep) + 1.0 / frequencies * keep


def rope_tables(rope: YarnRope, head_dim: int, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin for integer positions [N], each float32 [N, head_dim / 2], concentration included."""
    inverse = inverse_frequencies(rope, head_dim, positions.device)
    angles = positions.float()[:, None] * inverse
    scale = concentration(rope)
    return angles.cos() * scale, angles.sin() * scale


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates heads x [..., T, heads, D] by tables [T, D / 2]; halves are paired (NeoX), not neighbours."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
