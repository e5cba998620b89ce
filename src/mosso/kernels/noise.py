"""Random bits as a pure function of (seed, position, token): no state, no order.

A row's noise does not depend on the rows beside it, on the step, or on what was preempted. Any device can
compute the same stream with 64-bit integer arithmetic: it is splitmix64 (Steele, Lea, Flood 2014), started
for each position at a hash of seed and position, whose output number `token` belongs to that token.
"""

from __future__ import annotations

from typing import Protocol

import torch

_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_FRACTION_BITS = 40


class Draw(Protocol):
    """A token of each row of logits [S, V]: the one whose logit and noise are the largest together."""

    def __call__(
        self, logits: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor: ...


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that has it."""
    return value - (1 << 64) if value >> 63 else value


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift of int64 (torch's own copies the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: torch.Tensor) -> torch.Tensor:
    """splitmix64's output function on int64 bit patterns: a bijection that scatters every bit."""
    x = (x ^ _shift_right(x, 30)) * _signed(_MULTIPLIERS[0])
    x = (x ^ _shift_right(x, 27)) * _signed(_MULTIPLIERS[1])
    return x ^ _shift_right(x, 31)


def random_bits(seeds: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
    """64 random bits for each of `size` tokens of each row: int64 [S, size] of seeds, positions int64 [S]."""
    state = mix(mix(seeds + _signed(_GAMMA)) + positions * _signed(_GAMMA))
    steps = torch.arange(1, size + 1, device=seeds.device) * _signed(_GAMMA)
    return mix(state[:, None] + steps)


def gumbel(seeds: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
    """Standard Gumbel noise, float32 [S, size]: -ln(-ln(1 - u)).

    u in (0, 1) has 40 bits, so that its float32 form stays fine-grained near 0, where the largest noise
    comes from: a token of probability 1e-9 is still drawn as often as it should be.
    """
    fraction = _shift_right(random_bits(seeds, positions, size), 64 - _FRACTION_BITS)
    u = (fraction.float() + 0.5) * 2.0**-_FRACTION_BITS
    return -torch.log(-torch.log1p(-u.clamp(max=1 - 2.0**-24)))


def draw(logits: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """One sample of each row's softmax by the Gumbel-max trick: logits float32 [S, V] → int64 [S]."""
    return (logits + gumbel(seeds, positions, logits.shape[-1])).argmax(-1)
