"""The clamped, interleaved SwiGLU of gpt-oss."""

from __future__ import annotations

import torch

from mosso.core.config import SWIGLU_ALPHA


def swiglu(gate_up: torch.Tensor, limit: float) -> torch.Tensor:
    """gate_up [..., 2·I], gates in even places and ups in odd ones → [..., I].

    g = min(gate, limit), u = clamp(up, ±limit), result g · sigmoid(1.702 g) · (u + 1).
    """
    gate = gate_up[..., 0::2].clamp(max=limit)
    up = gate_up[..., 1::2].clamp(-limit, limit)
    return gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (up + 1)
