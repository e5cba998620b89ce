"""MXFP4: 4-bit floats (E2M1) in groups of 32 that share a power-of-two scale (OCP MX 1.0).

A weight [..., N, K] is stored as blocks uint8 [..., N, K/32, 16] and scales uint8 [..., N, K/32]. Byte j of
a block holds element 2j in its low nibble and 2j+1 in its high one; a scale s means 2^(s - 127).
"""

from __future__ import annotations

import functools
import math

import torch

GROUP = 32
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = _MAGNITUDES + tuple(-value for value in _MAGNITUDES)  # by nibble
_BIAS = 127
_NAN_SCALE = 255


@functools.cache
def _tables(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """byte → its two values [256, 2]; scale byte → factor [256]. Both exact in bfloat16 and float32."""
    pairs = [(VALUES[byte & 15], VALUES[byte >> 4]) for byte in range(256)]
    factors = [math.ldexp(1.0, scale - _BIAS) for scale in range(_NAN_SCALE)] + [math.nan]
    with torch.inference_mode(False):  # the tables outlive the caller, who may be training next
        return (
            torch.tensor(pairs, dtype=dtype, device=device),
            torch.tensor(factors, dtype=dtype, device=device),
        )


def dequantize(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """blocks [..., G, 16] and scales [..., G] → values [..., G·32]; exact."""
    pairs, factors = _tables(dtype, blocks.device)
    values = pairs[blocks.int()].flatten(-2) * factors[scales.int()].unsqueeze(-1)
    return values.flatten(-2)


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight [..., K] (K a multiple of 32) → blocks [..., K/32, 16], scales [..., K/32].

    Rounds to nearest, ties to the even code. Of the two scales worth having for a group (the largest value
    may saturate, or not) takes the one with the smaller squared error. Values that a block can hold come
    back unchanged.
    """
    exponent, rounded = _round_groups(weight)
    magnitude = rounded.abs()
    step = _step(magnitude)
    code = magnitude / step + 2 * step.log2() + 2  # 0 .. 7: two codes more each time the step doubles
    nibbles = code.to(torch.uint8) | ((rounded < 0).to(torch.uint8) << 3)
    blocks = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
    return blocks, (exponent + _BIAS).to(torch.uint8)


def fake_quantize(weight: torch.Tensor) -> torch.Tensor:
    """weight as MXFP4 would hold it, same shape and type; gradients pass straight through (1308.3432)."""
    with torch.no_grad():
        exponent, rounded = _round_groups(weight)
        held = (rounded * _power_of_two(exponent).unsqueeze(-1)).flatten(-2).to(weight.dtype)
        change = held - weight
    return weight + change if weight.requires_grad else held


def _round_groups(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The exponent of each group, int32 [..., G], and the values in its unit, float32 [..., G, 32]."""
    if weight.shape[-1] % GROUP:
        raise ValueError(f"the last axis has {weight.shape[-1]} elements, not a multiple of {GROUP}")
    groups = weight.detach().float().unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    _, exponent = torch.frexp(largest)  # largest = m · 2^exponent, m in [0.5, 1)
    low = (exponent - 3).clamp(-126, 125)  # the largest value falls into [4, 8): it may saturate at 6
    high = low + 1  # into [2, 4): it never does
    rounded_low, error_low = _round_to_scale(groups, low)
    rounded_high, error_high = _round_to_scale(groups, high)
    use_high = 4 * error_high < error_low  # a unit of `high` is two of `low`, and the errors are squares
    exponent = torch.where(use_high, high, low)
    return exponent, torch.where(use_high.unsqueeze(-1), rounded_high, rounded_low)


def _round_to_scale(groups: torch.Tensor, exponent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest E2M1 values in units of 2^exponent, and each group's squared error in those units."""
    scaled = groups * _power_of_two(-exponent).unsqueeze(-1)
    step = _step(scaled.abs())
    rounded = (torch.round(scaled / step) * step).clamp(-_MAGNITUDES[-1], _MAGNITUDES[-1])
    return rounded, (scaled - rounded).square().sum(-1)


def _power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent as float32, exact for -126 .. 127 (pow may be off by a rounding)."""
    return ((exponent.int() + _BIAS) << 23).view(torch.float32)


def _step(magnitude: torch.Tensor) -> torch.Tensor:
    """Distance between neighbouring E2M1 values at a magnitude: 0.5 below 2, 1 below 4, else 2."""
    return 0.5 + 0.5 * (magnitude >= 2) + (magnitude >= 4)
