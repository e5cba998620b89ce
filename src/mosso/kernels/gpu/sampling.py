"""Draws from the likeliest tokens of each row, and their log probabilities, from logits in memory."""

from __future__ import annotations

import torch

from mosso.kernels import noise, sampling
from mosso.kernels.gpu.head import Write, append_twin
from mosso.kernels.sampling import Logprobs


def sample_truncated_twin(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    *,
    write: Write | None = None,
) -> torch.Tensor:
    """Tokens int32 [S] from logits float32 [S, V], each row with its own parameters [S].

    temperature 0 takes the likeliest; top_k 0, top_p 1 and min_p 0 are off. `position` is how many tokens
    the row has generated: with `seed` it fixes the noise. `write` as in `head_sample`.
    """
    greedy = temperature == 0
    scaled = logits / torch.where(greedy, 1.0, temperature)[:, None]
    support = sampling.truncate(scaled, top_k.long(), top_p, min_p)
    drawn = noise.draw(support, seed, position.long())
    tokens = torch.where(greedy, logits.argmax(-1), drawn).int()
    if write is not None:
        append_twin(tokens, write)
    return tokens


def logprobs_twin(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> Logprobs:
    """Log probabilities of tokens int32 [S] and of the `top` likeliest under logits float32 [S, V]."""
    return sampling.logprobs(logits, tokens.long(), top)


sample_truncated = sample_truncated_twin
logprobs = logprobs_twin
