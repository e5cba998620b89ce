"""From logits to tokens, for S rows at once, each with its own parameters.

Order: penalties, bias, temperature, top_k, top_p, min_p, then one draw by the Gumbel-max trick: the argmax of
log probability plus Gumbel noise is a sample of the distribution. Every row is computed from its own numbers
alone, and its noise from its seed and output position, so a seeded request draws the same tokens whatever
shares its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosso.kernels import noise


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """How each of S rows draws. The host flags say what no row needs, so that it is skipped."""

    temperature: torch.Tensor  # float32 [S]; 0: greedy
    top_k: torch.Tensor  # int64 [S]; 0: off
    top_p: torch.Tensor  # float32 [S]; 1: off
    min_p: torch.Tensor  # float32 [S]; 0: off
    seed: torch.Tensor  # int64 [S]
    position: torch.Tensor  # int64 [S], how many tokens the row has generated before this one
    draws: bool = True  # false: every row is greedy
    truncates: bool = True  # false: no row has top_k, top_p or min_p


@dataclass(frozen=True, slots=True)
class Penalties:
    """Against repeating, over what each row has already. All over S rows and V tokens."""

    generated: torch.Tensor  # int [S, V], times each token was generated
    prompted: torch.Tensor  # bool [S, V], whether the prompt has it
    presence: torch.Tensor  # float32 [S]
    frequency: torch.Tensor  # float32 [S]
    repetition: torch.Tensor  # float32 [S]; 1: off


@dataclass(frozen=True, slots=True)
class Bias:
    """Sparse additions to logits; -inf forbids a token."""

    rows: torch.Tensor  # int64 [B]
    tokens: torch.Tensor  # int64 [B]
    values: torch.Tensor  # float32 [B]


def sample(
    logits: torch.Tensor,
    rows: SamplingRows,
    penalties: Penalties | None = None,
    bias: Bias | None = None,
    draw: noise.Draw = noise.draw,
) -> torch.Tensor:
    """The next token of each row, int64 [S], from the model's logits, float32 [S, V] (left unchanged).

    `draw` is the device's implementation of the last step.
    """
    if penalties is not None:
        logits = penalize(logits, penalties)
    if bias is not None:
        logits = logits.index_put((bias.rows, bias.tokens), bias.values, accumulate=True)
    if not rows.draws:
        return logits.argmax(-1)
    greedy = rows.temperature == 0
    scaled = logits / torch.where(greedy, 1.0, rows.temperature)[:, None]
    if rows.truncates:
        scaled = truncate(scaled, rows.top_k, rows.top_p, rows.min_p)
    return torch.where(greedy, logits.argmax(-1), draw(scaled, rows.seed, rows.position))


def penalize(logits: torch.Tensor, penalties: Penalties) -> torch.Tensor:
    """Repetition divides (multiplies, if negative) the logits of tokens seen in prompt or output; then
    frequency subtracts once for each time generated, and presence once if ever generated."""
    generated = penalties.generated
    repeated = (generated > 0) | penalties.prompted
    factor = torch.where(repeated, penalties.repetition[:, None], 1.0)
    logits = torch.where(logits > 0, logits / factor, logits * factor)
    logits = logits - penalties.frequency[:, None] * generated
    return logits - penalties.presence[:, None] * (generated > 0)


def restrict(logits: torch.Tensor, at: torch.Tensor, masks: torch.Tensor) -> None:
    """In place: -inf for the tokens that rows `at` int32 [N] of logits float32 [S, V] may not draw.

    masks int32 [N, words]: bit v % 32 of word v // 32 allows token v.
    """
    bits = masks[:, :, None] >> torch.arange(32, dtype=torch.int32, device=masks.device) & 1
    forbidden = bits.flatten(1)[:, : logits.shape[1]] == 0
    logits.index_copy_(0, at.long(), logits.index_select(0, at).masked_fill(forbidden, -torch.inf))


def truncate(
    logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """-inf for tokens outside each row's support; the others' logits unchanged. [S, V] and [S] each.

    top_k keeps the k likeliest (of equals, the lower ids). Of these, renormalised, top_p keeps the fewest
    likeliest whose probabilities reach p, and min_p those at least min_p times as likely as the likeliest.
    The likeliest token always stays.
    """
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    drop = rank >= torch.where(top_k > 0, top_k, logits.shape[-1])[:, None]
    shares = ordered.masked_fill(drop, -torch.inf).softmax(-1)
    before = shares.cumsum(-1) - shares  # probability of everything likelier
    drop |= (before >= top_p[:, None]) & (top_p < 1)[:, None]
    drop |= shares < min_p[:, None] * shares[:, :1]
    drop[:, 0] = False
    return logits.masked_fill(torch.empty_like(drop).scatter_(1, ids, drop), -torch.inf)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log probabilities under the model itself, before penalties, bias, temperature or truncation."""

    chosen: torch.Tensor  # float32 [S]
    top_tokens: torch.Tensor  # int64 [S, n], best first
    top: torch.Tensor  # float32 [S, n]


def logprobs(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> Logprobs:
    """Of the sampled tokens int64 [S] and of the `top` likeliest ones (top may be 0)."""
    table = logits.log_softmax(-1)
    best, best_tokens = table.topk(top, dim=-1)
    return Logprobs(table.gather(1, tokens[:, None]).squeeze(1), best_tokens, best)
