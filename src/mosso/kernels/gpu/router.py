"""The router: which experts each token goes to, and each expert's list of tokens.

For few tokens all is one kernel: a program has some experts of one token, norms the token for itself, and the
last program of all chooses for every token and counts, with nothing to be zeroed before. For more tokens the
norm is a kernel of its own, which also zeroes the counts; the logits are tensor-core products of a tile of
tokens, and whoever ends a tile chooses for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels.gpu.launch import pdl, shared_memory
from mosso.kernels.gpu.linear import Norm, eights, weight_tiles
from mosso.kernels.gpu.norm import rms_norm, rms_norm_twin
from mosso.kernels.gpu.tickets import TICKETS, is_last, tickets
from mosso.kernels.linear import linear

FEW_TOKENS = 16
SMALLEST = tl.constexpr(-(2**31))


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the logits are cut: a program has `tokens` tokens and `experts` experts.

    With one token a program it is the kernel for few tokens; its depth is then 256 times its warps, so that a
    thread has eight neighbouring columns of every chunk.
    """

    tokens: int
    experts: int
    depth: int
    warps: int
    stages: int = 1


def tiling(tokens: int, experts: int, shared_memory: int) -> Tiling:
    """The choice for `tokens` tokens: as few tokens and experts a program as fill the chip, and as much of
    them on its way as `shared_memory` bytes hold. Measured on an H200 (docs/facts.md)."""
    if tokens <= FEW_TOKENS:
        return Tiling(tokens=1, experts=min(experts, 4), depth=1024, warps=4)
    if tokens <= 64:
        return Tiling(tokens=16, experts=min(experts, 16), depth=256, warps=4, stages=5)
    if tokens <= 1024:
        stages = 5 if shared_memory >= _LARGE_SHARED_MEMORY else 2
        return Tiling(tokens=16, experts=min(experts, 16), depth=512, warps=4, stages=stages)
    return Tiling(tokens=64, experts=experts, depth=64, warps=4 if experts <= 64 else 8, stages=4)


_LARGE_SHARED_MEMORY = 160 << 10  # bytes: five stages of 32 rows of 512 columns


@dataclass(frozen=True, slots=True)
class Routing:
    """T tokens and the k experts of each. A pair is (token, slot), numbered token·k + slot.

    Padding tokens (t ≥ active) are counted nowhere, and E stands for each of their experts.
    """

    chosen: torch.Tensor  # int32 [T, k], best first, of equals the lower id first
    shares: torch.Tensor  # float32 [T, k], softmax over the chosen logits
    counts: torch.Tensor  # int32 [E], pairs of each expert
    lists: torch.Tensor  # int32 [E, T], lists[e, :counts[e]] are the pairs of expert e in any order
    normed: torch.Tensor  # [T, H], what the logits were computed from and the experts read


def route(
    x: torch.Tensor,
    router: torch.Tensor,
    bias: torch.Tensor,
    top_k: int,
    active: torch.Tensor,
    *,
    norm: Norm | None = None,
    counts: torch.Tensor | None = None,
    config: Tiling | None = None,
) -> Routing:
    """The top_k experts of each row of x [T, H] by logits x · router [E, H]ᵀ + bias [E]; E a power of two.

    active int32 [1]: the first padding token. With `norm`, x is the float32 stream: it is normed, rounded to
    router's type, and kept as `normed`; without it x is of that type and is `normed` itself. counts int32 [E]
    of zeros, if there is one already, saves a launch.
    """
    (tokens, hidden), experts = x.shape, router.shape[0]
    assert x.is_contiguous()
    assert router.is_contiguous()
    assert experts & (experts - 1) == 0

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    chosen, lists = empty(tokens, top_k), empty(experts, tokens)
    zeroed = counts is not None
    counts = empty(experts) if counts is None else counts
    shares = empty(tokens, top_k, dtype=torch.float32)
    logits = empty(tokens, experts, dtype=torch.float32)
    results = logits, chosen, shares, counts, lists, tickets(x.device), active, tokens
    overlap = pdl(x.device)
    cut = config or tiling(tokens, experts, shared_memory(x.device))
    assert experts % cut.experts == 0
    if cut.tokens == 1:
        assert tokens <= FEW_TOKENS
        normed = x if norm is None else empty(tokens, hidden, dtype=router.dtype)
        _few_kernel[(experts // cut.experts, tokens)](
            x, router if norm is None else norm[0], router, bias, normed, *results,
            0.0 if norm is None else norm[1],
            H=hidden, E=experts, TOP=top_k, BLOCK_E=cut.experts, BLOCK_H=cut.depth,
            BLOCK_T=triton.next_power_of_2(tokens), NORM=norm is not None,
            PDL=overlap, num_warps=cut.warps, launch_pdl=overlap,
        )  # fmt: skip
        return Routing(chosen, shares, counts, lists, normed)
    tiles = triton.cdiv(tokens, cut.tokens)
    assert tiles <= TICKETS
    if norm is None:
        normed = x
        if not zeroed:
            counts.zero_()
    else:
        normed = rms_norm(x, *norm, router.dtype, clear=counts)
    _many_kernel[(tiles, experts // cut.experts)](
        normed, router, bias, *results,
        H=hidden, E=experts, TOP=top_k, BLOCK_T=cut.tokens, BLOCK_E=cut.experts, BLOCK_H=cut.depth,
        PDL=overlap, num_warps=cut.warps, num_stages=cut.stages, launch_pdl=overlap,
    )  # fmt: skip
    return Routing(chosen, shares, counts, lists, normed)


def route_twin(
    x: torch.Tensor,
    router: torch.Tensor,
    bias: torch.Tensor,
    top_k: int,
    active: torch.Tensor,
    *,
    norm: Norm | None = None,
    counts: torch.Tensor | None = None,
    config: Tiling | None = None,
) -> Routing:
    tokens, experts = x.shape[0], router.shape[0]
    normed = x if norm is None else rms_norm_twin(x, *norm, router.dtype)
    logits = linear(normed.float(), router, bias.float())
    best, chosen = logits.sort(dim=-1, descending=True, stable=True)
    padding = (torch.arange(tokens, device=x.device) >= active)[:, None]
    chosen = chosen[:, :top_k].masked_fill(padding, experts).int()
    shares = best[:, :top_k].softmax(-1).masked_fill(padding, 0)
    counts = torch.zeros(experts, dtype=torch.int32, device=x.device)
    lists = torch.zeros(experts, tokens, dtype=torch.int32, device=x.device)
    for expert in range(experts):
        pairs = torch.where(chosen.flatten() == expert)[0]
        counts[expert] = len(pairs)
        lists[expert, : len(pairs)] = pairs
    return Routing(chosen, shares, counts, lists, normed)


@triton.jit
def _ordered(bits):
    """The bits of floats as integers of the same order, and back: the chip reduces integers in one step.

    A value that is not a number thus has its place too, and every choice is an expert.
    """
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _choose(
    values, chosen, shares, counts, lists, active, first, tokens,
    E: tl.constexpr, TOP: tl.constexpr, BLOCK_T: tl.constexpr, ALONE: tl.constexpr,
):  # fmt: skip
    """The experts of tokens first … by their logits values [BLOCK_T, E].

    ALONE: no other program chooses, so the counts are this one's.
    """
    t = first + tl.arange(0, BLOCK_T)
    e = tl.arange(0, E)[None, :]
    real = t < tl.minimum(tl.load(active), tokens)
    keys = _ordered(values.to(tl.int32, bitcast=True))
    total = tl.zeros((BLOCK_T,), tl.float32)
    weights = tl.tuple(())
    slots = tl.full((BLOCK_T, E), -1, tl.int32)
    for slot in tl.static_range(TOP):
        best = tl.max(keys, 1)
        expert = tl.min(tl.where(keys == best[:, None], e, E - 1), 1)
        picked = e == expert[:, None]
        slots = tl.where(picked, slot, slots)
        keys = tl.where(picked, SMALLEST, keys)
        tl.store(chosen + t * TOP + slot, tl.where(real, expert, E), mask=t < tokens)
        logit = _ordered(best).to(tl.float32, bitcast=True)
        if slot == 0:
            top = logit
        weight = tl.exp(logit - top)
        total += weight
        weights += (weight,)
    for slot in tl.static_range(TOP):
        tl.store(shares + t * TOP + slot, tl.where(real, weights[slot] / total, 0.0), mask=t < tokens)

    member = (slots >= 0) & real[:, None]
    ones = member.to(tl.int32)
    rank = tl.cumsum(ones, 0) - ones
    number = tl.sum(ones, 0)[None, :]
    if ALONE:
        tl.store(counts + e, number)
        place = rank
    else:
        place = rank + tl.atomic_add(counts + e, number, sem="relaxed")
    tl.store(lists + e * tokens + place, t[:, None] * TOP + slots, mask=member)


@triton.jit(do_not_specialize=["tokens", "eps"])
def _few_kernel(
    x, gain, router, bias, normed, logits, chosen, shares, counts, lists, ticket, active, tokens, eps,
    H: tl.constexpr, E: tl.constexpr, TOP: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_T: tl.constexpr, NORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BLOCK_E logits of one token a program."""
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    t = tl.program_id(1)
    h = tl.arange(0, BLOCK_H)[None, None, :]
    one = tl.zeros((1, 1, 1), tl.int32)
    if PDL:
        gdc_launch_dependents()
    tiles = weight_tiles(router, e, H, BLOCK_H)
    offset = tl.load(bias + e).to(tl.float32)
    if PDL:
        gdc_wait()

    products = tl.zeros((BLOCK_E, 1, BLOCK_H), tl.float32)
    if NORM:
        squares = tl.zeros((1, 1, BLOCK_H), tl.float32)
        values = tl.tuple(())
        for chunk in tl.static_range((H + BLOCK_H - 1) // BLOCK_H):
            part = eights(x + t * H + one, H, chunk * BLOCK_H, BLOCK_H, True)
            squares += part * part
            values += (part,)
        inverse = tl.rsqrt(tl.sum(squares) / H + eps)
    for chunk in tl.static_range((H + BLOCK_H - 1) // BLOCK_H):
        column = chunk * BLOCK_H + h
        if NORM:
            factor = eights(gain + one, H, chunk * BLOCK_H, BLOCK_H, True)
            token = (values[chunk] * inverse * factor).to(router.dtype.element_ty)
            if tl.program_id(0) == 0:
                tl.store(normed + t * H + column, token, mask=column < H)
        else:
            token = tl.load(x + t * H + column, mask=column < H, other=0.0)
        products += tiles[chunk].to(tl.float32) * token.to(tl.float32)
    tl.store(logits + t * E + e, tl.reshape(tl.sum(products, 2), (BLOCK_E,)) + offset)

    if is_last(ticket, E // BLOCK_E * tokens):
        at = tl.arange(0, BLOCK_T)[:, None]
        row = logits + at * E + tl.arange(0, E)[None, :]
        every = tl.load(row, mask=at < tokens, other=0.0, cache_modifier=".cg")
        _choose(every, chosen, shares, counts, lists, active, 0, tokens, E, TOP, BLOCK_T, True)


@triton.jit(do_not_specialize=["tokens"])
def _many_kernel(
    normed, router, bias, logits, chosen, shares, counts, lists, ticket, active, tokens,
    H: tl.constexpr, E: tl.constexpr, TOP: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_H: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Logits of a tile of tokens for BLOCK_E experts a program."""
    tile = tl.program_id(0)
    first = tile * BLOCK_T
    t = first + tl.arange(0, BLOCK_T)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    h = tl.arange(0, BLOCK_H)
    if PDL:
        gdc_launch_dependents()
    offset = tl.load(bias + e).to(tl.float32)
    if PDL:
        gdc_wait()
    normed_at = normed + t.to(tl.int64)[:, None] * H + h[None, :]
    router_at = router + e[:, None] * H + h[None, :]
    real = (t < tokens)[:, None]
    values = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    for start in tl.range(0, H, BLOCK_H):
        inside = (start + h < H)[None, :]
        token = tl.load(normed_at + start, mask=real & inside, other=0.0)
        weight = tl.load(router_at + start, mask=inside, other=0.0)
        values = tl.dot(token, tl.trans(weight), values)
    values += offset[None, :]

    if BLOCK_E == E:
        _choose(values, chosen, shares, counts, lists, active, first, tokens, E, TOP, BLOCK_T, False)
    else:
        tl.store(logits + t[:, None] * E + e[None, :], values, mask=real)
        if is_last(ticket + tile, E // BLOCK_E):
            row = logits + t[:, None] * E + tl.arange(0, E)[None, :]
            every = tl.load(row, mask=real, other=0.0, cache_modifier=".cg")
            _choose(every, chosen, shares, counts, lists, active, first, tokens, E, TOP, BLOCK_T, False)
