"""Draws from the likeliest tokens of each row, and their log probabilities, from logits in memory.

Truncation needs no sort. Order a row by falling logit, then by id; each of top_k, top_p and min_p keeps a
prefix of that order. The Gumbel-max draw over the whole row is the draw over its support too, if it lies
there, and whether it does is a matter of how many tokens and how much probability are ahead of it: one pass,
and none for a token so likely that it must. If it does not, the support is ahead of it, and the next
candidate is the draw among those: each rejected candidate leaves a shorter prefix, so the search ends, after
1 / P(support) candidates or fewer on average.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels import noise, sampling
from mosso.kernels.gpu.head import Draws, Write, append_twin
from mosso.kernels.gpu.launch import num_multiprocessors, pdl, ptx
from mosso.kernels.gpu.noise import gumbel, row_state
from mosso.kernels.sampling import Logprobs

SURVEY_BLOCK = 1024
RESTRICT_BLOCK = 4096
SETTLE_BLOCK = 8192  # a row's settling program has its multiprocessor to itself when rows are few
_MARGIN = tl.constexpr(1.00001)  # more than the rounding of a sum of shares
# Vectors that may be slices of larger ones: where they start must not have a kernel compiled anew.
PARAMETERS = ["temperature", "top_k", "top_p", "min_p", "seed", "position", "table", "rows", "positions"]


def sample_truncated(
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

    temperature float32, 0 takes the likeliest; top_k int32, top_p and min_p float32: off at 0, 1 and 0. seed
    int64 and position int32, how many tokens the row has generated, fix the noise. `write` as in
    `head.head_sample`.
    """
    rows, vocab_size = logits.shape
    partials = _survey(logits, Draws(temperature, seed, position))
    parts = partials[0].shape[1]
    out = torch.empty(rows, dtype=torch.int32, device=logits.device)
    table, row_ids, positions = (out, out, out) if write is None else write
    assert write is None or table.stride(1) == 1
    overlap = pdl(logits.device)
    _settle_kernel[(rows,)](
        logits, temperature, top_k, top_p, min_p, seed, position, *partials,
        out, table, row_ids, positions, table.stride(0), vocab_size, parts,
        BLOCK=SETTLE_BLOCK, PARTS=_most_parts(vocab_size), WRITE=write is not None,
        PTX=ptx(logits.device), PDL=overlap, num_warps=16, launch_pdl=overlap,
    )  # fmt: skip
    return out


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
    greedy = temperature == 0
    scaled = logits / torch.where(greedy, 1.0, temperature)[:, None]
    support = sampling.truncate(scaled, top_k.long(), top_p, min_p)
    drawn = noise.draw(support, seed, position.long())
    tokens = torch.where(greedy, logits.argmax(-1), drawn).int()
    if write is not None:
        append_twin(tokens, write)
    return tokens


def restrict(logits: torch.Tensor, at: torch.Tensor, masks: torch.Tensor) -> None:
    """See `kernels.sampling.restrict`. Nothing of the logits is read."""
    rows, vocab_size = len(at), logits.shape[1]
    assert logits.is_contiguous()
    assert masks.is_contiguous()
    words = masks.shape[1]
    assert words * 32 >= vocab_size
    overlap = pdl(logits.device)
    _restrict_kernel[(rows, triton.cdiv(vocab_size, RESTRICT_BLOCK))](
        logits, at, masks, vocab_size, words, BLOCK=RESTRICT_BLOCK, PDL=overlap, num_warps=4,
        launch_pdl=overlap,
    )  # fmt: skip


def logprobs(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> Logprobs:
    """Log probabilities of tokens int32 [S] and of the `top` likeliest under logits float32 [S, V].

    The normaliser takes one pass; torch.topk, which finds the n-th value digit by digit, does the rest.
    """
    rows, vocab_size = logits.shape
    maxima, sums, _, _ = _survey(logits, None)
    parts = maxima.shape[1]
    normalizer = torch.empty(rows, dtype=torch.float32, device=logits.device)
    chosen = torch.empty_like(normalizer)
    overlap = pdl(logits.device)
    _normalize_kernel[(rows,)](
        logits, tokens, maxima, sums, normalizer, chosen, vocab_size, parts,
        PARTS=_most_parts(vocab_size), PDL=overlap, num_warps=1, launch_pdl=overlap,
    )  # fmt: skip
    best, best_tokens = logits.topk(top, dim=-1)
    return Logprobs(chosen, best_tokens, best - normalizer[:, None])


def logprobs_twin(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> Logprobs:
    return sampling.logprobs(logits, tokens.long(), top)


def _survey(
    logits: torch.Tensor, draws: Draws | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each part of each row, [S, parts]: largest logit, sum of exp(logit - largest); and with `draws`, for
    logits over temperature, the largest value with noise and its token int32."""
    rows, vocab_size = logits.shape
    assert logits.dtype == torch.float32
    assert logits.is_contiguous()
    blocks = triton.cdiv(vocab_size, SURVEY_BLOCK)
    parts = min(blocks, triton.cdiv(4 * num_multiprocessors(logits.device), rows))
    maxima = torch.empty(rows, parts, dtype=torch.float32, device=logits.device)
    sums, values = torch.empty_like(maxima), torch.empty_like(maxima)
    tokens = torch.empty_like(maxima, dtype=torch.int32)
    draw = (logits,) * 3 if draws is None else (draws.temperature, draws.seed, draws.position)
    overlap = pdl(logits.device)
    _survey_kernel[(rows, parts)](
        logits, *draw, maxima, sums, values, tokens, vocab_size, triton.cdiv(blocks, parts) * SURVEY_BLOCK,
        BLOCK=SURVEY_BLOCK, DRAW=draws is not None,
        PTX=ptx(logits.device), PDL=overlap, num_warps=4, launch_pdl=overlap,
    )  # fmt: skip
    return maxima, sums, values, tokens


def _most_parts(vocab_size: int) -> int:
    """A power of two, the same for any number of rows, so that one compiled kernel serves all."""
    return triton.next_power_of_2(triton.cdiv(vocab_size, SURVEY_BLOCK))


@triton.jit(do_not_specialize_on_alignment=["temperature", "seed", "position"])
def _survey_kernel(
    logits, temperature, seed, position, maxima, sums, values, tokens, V, length,
    BLOCK: tl.constexpr, DRAW: tl.constexpr, PTX: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    s = tl.program_id(0)
    part = tl.program_id(1)
    row = logits + s.to(tl.int64) * V
    coolness = 1.0
    if DRAW:
        warmth = tl.load(temperature + s)
        coolness = 1 / tl.where(warmth > 0, warmth, 1.0)
        state = row_state(tl.load(seed + s), tl.load(position + s))
        best = tl.full((BLOCK,), -float("inf"), tl.float32)
        best_token = tl.full((BLOCK,), 2147483647, tl.int32)
    largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(part * length, tl.minimum(part * length + length, V), BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = _scaled(row, v, V, coolness)
        risen = tl.maximum(largest, x)
        origin = tl.where(risen == -float("inf"), 0.0, risen)
        total = total * tl.exp(largest - origin) + tl.exp(x - origin)
        largest = risen
        if DRAW:
            if warmth > 0:
                x += gumbel(state, v, PTX)
            better = x > best
            best = tl.where(better, x, best)
            best_token = tl.where(better, v, best_token)
    at = s * tl.num_programs(1) + part
    peak = tl.max(largest)
    tl.store(maxima + at, peak)
    tl.store(sums + at, tl.sum(total * tl.exp(largest - tl.where(peak == -float("inf"), 0.0, peak))))
    if DRAW:
        winner = tl.max(best)
        tl.store(values + at, winner)
        tl.store(tokens + at, tl.min(tl.where(best == winner, best_token, 2147483647)))


@triton.jit
def _restrict_kernel(logits, at, masks, V, words, BLOCK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word = tl.load(masks + n * words + v // 32, mask=v < V, other=0)
    forbidden = (word >> (v % 32)) & 1 == 0
    row = logits + tl.load(at + n).to(tl.int64) * V
    tl.store(row + v, -float("inf"), mask=(v < V) & forbidden)


@triton.jit
def _scaled(row, v, V, coolness):
    """Logits over temperature, always in the same rounding, so that equals stay equal."""
    return tl.load(row + v, mask=v < V, other=-float("inf")) * coolness


@triton.jit
def _normalizer(maxima, sums, s, parts, PARTS: tl.constexpr):
    """(largest logit, sum of exp(logit - largest)) of row s, from its parts'."""
    part = tl.arange(0, PARTS)
    largest = tl.load(maxima + s * parts + part, mask=part < parts, other=-float("inf"))
    total = tl.load(sums + s * parts + part, mask=part < parts, other=0.0)
    peak = tl.max(largest)
    return peak, tl.sum(total * tl.exp(largest - tl.where(peak == -float("inf"), 0.0, peak)))


@triton.jit(do_not_specialize=["parts"], do_not_specialize_on_alignment=["tokens"])
def _normalize_kernel(
    logits, tokens, maxima, sums, normalizer, chosen, V, parts, PARTS: tl.constexpr, PDL: tl.constexpr
):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    s = tl.program_id(0)
    peak, total = _normalizer(maxima, sums, s, parts, PARTS)
    log_total = peak + tl.log(total)
    tl.store(normalizer + s, log_total)
    tl.store(chosen + s, tl.load(logits + s.to(tl.int64) * V + tl.load(tokens + s)) - log_total)


@triton.jit(do_not_specialize=["stride", "parts"], do_not_specialize_on_alignment=PARAMETERS)
def _settle_kernel(
    logits, temperature, top_k, top_p, min_p, seed, position, maxima, sums, values, tokens,
    out, table, rows, positions, stride, V, parts,
    BLOCK: tl.constexpr, PARTS: tl.constexpr, WRITE: tl.constexpr, PTX: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    s = tl.program_id(0)
    part = tl.arange(0, PARTS)
    value = tl.load(values + s * parts + part, mask=part < parts, other=-float("inf"))
    token = tl.load(tokens + s * parts + part, mask=part < parts, other=2147483647)
    candidate = tl.min(tl.where(value == tl.max(value), token, 2147483647))
    candidate = tl.minimum(candidate, V - 1)  # nothing but NaN or -inf in the row: still a token
    warmth = tl.load(temperature + s)
    k = tl.load(top_k + s)
    k = tl.where(k > 0, tl.minimum(k, V), V)
    p = tl.load(top_p + s)
    least = tl.load(min_p + s)
    if (warmth > 0) & ((k < V) | (p < 1) | (least > 0)):
        coolness = 1 / warmth
        peak, total = _normalizer(maxima, sums, s, parts, PARTS)
        state = row_state(tl.load(seed + s), tl.load(position + s))
        row = logits + s.to(tl.int64) * V
        searching = True
        while searching:
            x = _scaled(row, candidate, V, coolness)
            share = tl.exp(x - peak)
            inside = (x >= peak) | (share >= least)
            # As many tokens as are ahead are at least as likely, and what is ahead is not the token itself.
            # That alone keeps a token as likely as most that are drawn, with no pass over the row.
            certain = (k == V) | (share * k > total * _MARGIN)
            certain = certain & ((p >= 1) | (share > (1 - p) * total * _MARGIN))
            if inside & (certain == 0):
                count, mass = _ahead(row, V, coolness, peak, x, candidate, BLOCK)
                inside = count < k
                if inside & (p < 1) & (count > 0):
                    if k < V:
                        inside = _reaches_less(row, V, coolness, peak, total, k, p, mass, share, BLOCK)
                    else:
                        inside = mass < p * total
            searching = inside == 0
            if searching:
                before = candidate
                candidate = _best_ahead(row, V, coolness, state, x, candidate, BLOCK, PTX)
                searching = candidate != before  # only NaN has nothing ahead of it and is rejected
    tl.store(out + s, candidate)
    if WRITE:
        at = tl.load(rows + s).to(tl.int64) * stride
        tl.store(table + at + tl.load(positions + s) + 1, candidate)


@triton.jit
def _ahead(row, V, coolness, peak, x, token, BLOCK: tl.constexpr):
    """How many tokens, and how much of exp(logit - peak), are ahead of `token` with logit x."""
    count = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        others = _scaled(row, v, V, coolness)
        ahead = (others > x) | ((others == x) & (v < token))
        count += ahead.to(tl.int32)
        mass += tl.where(ahead, tl.exp(others - peak), 0.0)
    return tl.sum(count), tl.sum(mass)


@triton.jit
def _best_ahead(row, V, coolness, state, x, token, BLOCK: tl.constexpr, PTX: tl.constexpr):
    """The draw among the tokens ahead of `token` with logit x."""
    best = tl.full((BLOCK,), -float("inf"), tl.float32)
    best_token = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        others = _scaled(row, v, V, coolness)
        ahead = (others > x) | ((others == x) & (v < token))
        if tl.max(ahead.to(tl.int32)) > 0:
            noisy = others + gumbel(state, v, PTX)
            better = ahead & (noisy > best)
            best = tl.where(better, noisy, best)
            best_token = tl.where(better, v, best_token)
    return tl.min(tl.where(best == tl.max(best), best_token, 2147483647))


@triton.jit
def _reaches_less(row, V, coolness, peak, total, k, p, mass, share, BLOCK: tl.constexpr):
    """Whether `mass` is less than p of the k likeliest tokens' mass, for one of them with `share` itself.

    Halves the range of the k-th largest logit, in turn of its values and of their bit patterns (which alone
    would start with a long way to the peak, as values alone would end with one around zero), until the bounds
    of the k likeliest's mass decide: mostly long before the range holds a single value.
    """
    low = _order(-float("inf")) - 1  # at least k tokens are above it: all
    high = _order(peak)  # fewer are above it: none
    low_x = peak - 64.0
    high_x = peak
    low_share = 0.0
    high_share = 1.0
    above = 0  # tokens above high, and their mass
    above_mass = 0.0
    least = mass + share
    most = total
    by_value = True
    while (mass >= p * least) & (mass < p * most) & (high - low > 1):
        middle = (low + high) >> 1
        halved = _order(0.5 * (low_x + high_x))
        middle = tl.where(by_value & (halved > low) & (halved < high), halved, middle)
        by_value = by_value == 0
        x = _value(middle)
        inner, inner_mass = _above(row, V, coolness, peak, x, BLOCK)
        if inner < k:
            high = middle
            high_x = x
            high_share = tl.exp(x - peak)
            above = inner
            above_mass = inner_mass
        else:
            low = middle
            low_x = tl.maximum(x, low_x)
            low_share = tl.exp(x - peak)
            most = tl.minimum(most, inner_mass)
        missing = (k - above).to(tl.float32)
        least = tl.maximum(least, above_mass + missing * low_share)
        most = tl.minimum(most, above_mass + missing * high_share)
    return mass < p * least


@triton.jit
def _above(row, V, coolness, peak, x, BLOCK: tl.constexpr):
    """How many tokens, and how much of exp(logit - peak), are above logit x."""
    count = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        others = _scaled(row, start + tl.arange(0, BLOCK), V, coolness)
        count += (others > x).to(tl.int32)
        mass += tl.where(others > x, tl.exp(others - peak), 0.0)
    return tl.sum(count), tl.sum(mass)


@triton.jit
def _order(x):
    """int64 that orders as the float32 does."""
    bits = (x + tl.zeros((), tl.float32)).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def _value(order):
    """The float32 of an `_order`."""
    bits = order.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)
