"""MXFP4 as the training forward sees it, and as the file stores it: one rounding, two forms.

32 values along the input axis share a power-of-two scale; each value is a sign and one of eight E2M1
magnitudes. `fake_quantize` gives the values that `pack` writes, bit for bit, with a straight-through
gradient (Bengio et al., arXiv 1308.3432), so the exported model is the one that was trained.
"""

from __future__ import annotations

import torch

GROUP = 32
SCALE_BIAS = 127
# A group's largest magnitude may reach 7 in units of its scale: there rounding to 6 costs 1, no more than
# any other value between 4 and 6 can lose, and the other 31 values get a grid twice as fine.
_MANTISSA_OF_SEVEN = 0x600000  # of 7 = 1.75 · 2²
_MAX_MAGNITUDE = 6.0
# Twice the E2M1 magnitude → its code.
_CODE_OF_DOUBLED = (0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7)


def _exponents(groups: torch.Tensor) -> torch.Tensor:
    """The smallest e with max|x| <= 7 · 2^e of each group [..., 32], from the float's bits: int32 [..., 1]."""
    largest = groups.abs().amax(dim=-1, keepdim=True).float()
    bits = largest.view(torch.int32)
    exponent = (bits >> 23) - SCALE_BIAS - 2 + ((bits & 0x7FFFFF) > _MANTISSA_OF_SEVEN).to(torch.int32)
    return exponent.clamp(-125, 125)  # 2^e and 2^-e stay normal floats


def _power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    return ((exponents + SCALE_BIAS) << 23).view(torch.float32)


def _nearest(x: torch.Tensor) -> torch.Tensor:
    """The nearest E2M1 value: steps of 1/2 below 2, of 1 below 4, of 2 up to 6; ties to even."""
    magnitude = x.abs()
    rounded = torch.where(
        magnitude < 2,
        torch.round(magnitude * 2) / 2,
        torch.where(magnitude < 4, torch.round(magnitude), torch.round(magnitude / 2) * 2),
    )
    return torch.copysign(rounded.clamp(max=_MAX_MAGNITUDE), x)


def _quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [..., n] → E2M1 values [..., n / 32, 32] in units of the scale, exponents [..., n / 32, 1]."""
    groups = weight.float().unflatten(-1, (-1, GROUP))
    exponents = _exponents(groups)
    return _nearest(groups * _power_of_two(-exponents)), exponents


def fake_quantize(weight: torch.Tensor) -> torch.Tensor:
    """float32 [..., n] → the float32 values that the file will hold; the gradient passes unchanged."""
    with torch.no_grad():
        values, exponents = _quantize(weight)
        quantized = (values * _power_of_two(exponents)).flatten(-2)
    return quantized + (weight - weight.detach())  # the difference is exactly 0: the sum does not round


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [..., n] → blocks uint8 [..., n / 32, 16], scales uint8 [..., n / 32], as the file has them.

    Byte j of a group holds element 2j in its low nibble and 2j + 1 in its high one.
    """
    with torch.no_grad():
        values, exponents = _quantize(weight)
        codes = torch.tensor(_CODE_OF_DOUBLED, dtype=torch.uint8, device=weight.device)
        nibbles = codes[(values.abs() * 2).long()] | (torch.signbit(values).to(torch.uint8) << 3)
        blocks = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
        return blocks, (exponents.squeeze(-1) + SCALE_BIAS).to(torch.uint8)
