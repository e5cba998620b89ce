"""What is minimised, and the exact-match measure: would greedy decoding reproduce the target?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from mosso.train.feed import Batch
from mosso.train.network import Network
from mosso.train.packing import PADDING, Kind

PROMPT_WEIGHT = 0.03  # prompts are mostly noise to predict, yet teach the model what its words mean
BALANCE_WEIGHT = 0.01


class Losses(NamedTuple):
    total: torch.Tensor  # what to differentiate
    tokens: torch.Tensor  # float32 [B, S], the loss of predicting each token; 0 at a document's first
    right: torch.Tensor  # bool [B, S], whether each token was ranked first given all before it
    balance: torch.Tensor  # 1 when every expert gets the same load


def next_tokens(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """labels int64 [B, S], the token after each position; weights float32 [B, S], 0 across documents."""
    labels = batch.tokens.roll(-1, dims=1)
    follows = batch.documents.roll(-1, dims=1) == batch.documents
    follows = follows & (batch.documents != PADDING)
    last = torch.arange(labels.shape[1], device=labels.device) == labels.shape[1] - 1
    kinds = batch.kinds.roll(-1, dims=1)
    weights = (kinds == Kind.TARGET).float() + (kinds == Kind.PROMPT).float() * PROMPT_WEIGHT
    return labels, weights * (follows & ~last)


def losses(network: Network, batch: Batch) -> Losses:
    """The weighted mean cross-entropy of the next token, plus the load-balancing term."""
    logits, balance = network(batch.tokens, batch.documents)
    labels, weights = next_tokens(batch)
    tokens = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view_as(
        weights
    )
    mean = (tokens * weights).sum() / weights.sum().clamp(min=1.0)
    return Losses(
        total=mean + BALANCE_WEIGHT * balance,
        tokens=(tokens * (weights > 0)).detach().roll(1, dims=1),
        right=(logits.argmax(-1) == labels).roll(1, dims=1),
        balance=balance.detach(),
    )


def loss_by_skill(batch: Batch, tokens: torch.Tensor, skills: Sequence[str]) -> dict[str, float]:
    """Mean target loss for each skill in the batch, whose numbers are indices into `skills`."""
    targets = batch.kinds == Kind.TARGET
    index = batch.numbers.long().clamp(min=0).flatten()
    zero = torch.zeros(len(skills), device=tokens.device)
    total = zero.index_add(0, index, (tokens * targets).flatten())
    count = zero.index_add(0, index, targets.float().flatten())
    means = (total / count.clamp(min=1)).tolist()
    return {skill: mean for skill, mean, n in zip(skills, means, count.tolist(), strict=True) if n}


def exact_matches(
    losses_of: Callable[[Batch], Losses], batches: Sequence[Batch], skills: Sequence[str]
) -> tuple[dict[str, float], list[int]]:
    """The share of examples, by skill, whose every target token is ranked first; the numbers of the others.

    `skills[n]` is the skill of the example whose document number is n.
    """
    wrong = torch.zeros(len(skills), device=batches[0].tokens.device)
    seen = torch.zeros_like(wrong)
    for batch in batches:
        targets = batch.kinds == Kind.TARGET
        index = batch.numbers.long().clamp(min=0).flatten()
        wrong.index_add_(0, index, (targets & ~losses_of(batch).right).float().flatten())
        seen.index_add_(0, index, targets.float().flatten())
    outcome: dict[str, list[bool]] = defaultdict(list)
    missed = []
    for number, (skill, errors, count) in enumerate(zip(skills, wrong.tolist(), seen.tolist(), strict=True)):
        if count:
            outcome[skill].append(errors == 0)
            if errors:
                missed.append(number)
    return {skill: sum(results) / len(results) for skill, results in sorted(outcome.items())}, missed
