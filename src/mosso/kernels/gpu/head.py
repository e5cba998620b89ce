"""The output head: logits of the last tokens, or at once the tokens drawn from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mosso.kernels import noise
from mosso.kernels.norm import rms_norm

Norm = tuple[torch.Tensor, float]  # weight [H] and epsilon of the norm before the head
Write = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor
]  # table int32 [R, C], rows int32 [S], positions int32 [S]


def head_twin(h: torch.Tensor, weight: torch.Tensor, *, norm: Norm | None = None) -> torch.Tensor:
    """Logits float32 [S, V] of h [S, H] with weight [V, H]; products of weight's type, summed in float32."""
    x = h if norm is None else rms_norm(h, *norm)
    return F.linear(x.to(weight.dtype).float(), weight.float())


def head_sample_twin(
    h: torch.Tensor,
    weight: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    *,
    norm: Norm | None = None,
    write: Write | None = None,
) -> torch.Tensor:
    """Tokens int32 [S], drawn from softmax(logits / temperature); the likeliest where temperature is 0.

    `position` is how many tokens the row has generated: with `seed` it fixes the noise. `write` also makes
    the token known: table[rows, positions + 1], where `positions` are those of the tokens drawn from.
    """
    logits = head_twin(h, weight, norm=norm)
    greedy = temperature == 0
    scaled = logits / torch.where(greedy, 1.0, temperature)[:, None]
    drawn = noise.draw(scaled, seed, position.long())
    tokens = torch.where(greedy, logits.argmax(-1), drawn).int()
    if write is not None:
        append_twin(tokens, write)
    return tokens


def append_twin(tokens: torch.Tensor, write: Write) -> None:
    table, rows, positions = write
    table[rows.long(), positions.long() + 1] = tokens


head = head_twin
head_sample = head_sample_twin
