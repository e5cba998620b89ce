"""Attention over paged keys and values with sinks, in Triton; mosso.kernels.attention defines it.

Softmax runs online, in base 2: scores and sinks are scaled by log2 e. A sink is where the running sum starts:
a maximum of its logit and a sum of one, with no value.

decode_attention    one query a row: a program has a row, a key/value head (its query heads are the M side of
                    the product) and a split of the context; the last split to end merges them all
prefill_attention   chunks of queries: a program has a block of queries of one head
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels.attention import paged_attention
from mosso.kernels.gpu.launch import num_multiprocessors, pdl
from mosso.kernels.gpu.rope import plane_strides
from mosso.kernels.gpu.tickets import TICKETS, is_last, tickets

LOG2E = math.log2(math.e)
_LOG2E = tl.constexpr(LOG2E)
_LOWEST = tl.constexpr(-1e30)  # a maximum of no scores: finite, so that differences of two are numbers
MOST_SPLITS = 64


@dataclass(frozen=True, slots=True)
class DecodeTiling:
    """A tile is parts · keys keys. Each part is a softmax of its own within a warp, until the end."""

    parts: int
    keys: int
    warps: int
    stages: int  # tiles in flight, plus one


@dataclass(frozen=True, slots=True)
class Split:
    """How programs share a token's tiles: up to `most` of them, each with at least `tiles`, but for the last."""

    most: int
    tiles: int


@dataclass(frozen=True, slots=True)
class PrefillTiling:
    """block_m query vectors (queries times the heads of a group) against block_n keys."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def decode_tiling(window: int | None) -> DecodeTiling:
    """A window fits one tile, if it is gpt-oss's."""
    if window is None or window > 128:
        return DecodeTiling(parts=4, keys=16, warps=4, stages=3)
    return DecodeTiling(parts=max(1, triton.next_power_of_2(window) // 16), keys=16, warps=4, stages=1)


def split_of(pairs: int, multiprocessors: int) -> Split:
    """The choice for `pairs` pairs of a token and a key/value head.

    Four programs fill a multiprocessor. Where the pairs alone fill the chip, only long contexts are split, so
    that one of them does not hold up the step: programs without tiles cost next to nothing.
    """
    if pairs > TICKETS:
        return Split(1, 1)
    wanted = 4 * multiprocessors // pairs
    if wanted >= 4:
        return Split(min(wanted, MOST_SPLITS), 1)
    return Split(4, 8 if wanted >= 2 else 32)


def prefill_tiling(max_query: int) -> PrefillTiling:
    return PrefillTiling(block_m=128, block_n=64, warps=4, stages=3)


# One choice for all, with which a query's result depends on nothing but its own row: blocks of keys begin at
# multiples of block_n, and a block of which a query sees nothing leaves its sums as they are, bit for bit.
UNIFORM = PrefillTiling(block_m=64, block_n=64, warps=4, stages=3)


def decode_attention(
    q: torch.Tensor,
    pool: torch.Tensor,
    pages: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    sinks: torch.Tensor,
    window: int | None,
    *,
    splits: int | None = None,
    config: DecodeTiling | None = None,
) -> torch.Tensor:
    """Attention of T tokens, each over its row's keys 0 .. position, its own among them → [T, heads, D].

    q [T, heads, D], of which only the first dimension may be strided; pool [2, KV, pages, page_size, D], in
    any floating-point type; pages int32 [R, P]; rows and positions int32 [T]; sinks float32 [heads].
    heads / KV is a power of two. `splits` fixes into how many programs a context of any length is split.

    Nothing that may still run when this kernel starts writes `rows`, `positions` and `pages`: they are read
    before the kernel ahead has ended.
    """
    tokens, heads, dim = q.shape
    kv_heads, pairs = pool.shape[1], tokens * pool.shape[1]
    cut = config or decode_tiling(window)
    split = Split(1, 1)
    if splits is not None:
        split = Split(splits, 1)
    elif window is None:
        split = split_of(pairs, num_multiprocessors(q.device))
    assert window is None or split.most == 1
    out = torch.empty(tokens, heads, dim, dtype=q.dtype, device=q.device)
    group = heads // kv_heads
    parts, stats, counters = None, None, None
    if split.most > 1:
        assert pairs <= TICKETS
        parts = torch.empty(pairs, split.most, group, dim, dtype=torch.float32, device=q.device)
        stats = torch.empty(pairs, split.most, 2, group, dtype=torch.float32, device=q.device)
        counters = tickets(q.device)
    overlap = pdl(q.device)
    _decode_kernel[(tokens, kv_heads, split.most)](
        q, pool, pages, rows, positions, sinks, out, parts, stats, counters,
        _query_stride(q), pages.stride(0), *_planes(pool), LOG2E * dim**-0.5,
        GROUP=group, D=dim, PAGE=pool.shape[3], WINDOW=window or 0, PARTS=cut.parts, KEYS=cut.keys,
        SPLITS=split.most, LEAST=split.tiles, PDL=overlap,
        num_warps=cut.warps, num_stages=cut.stages, launch_pdl=overlap,
    )  # fmt: skip
    return out


def decode_attention_twin(
    q: torch.Tensor,
    pool: torch.Tensor,
    pages: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    sinks: torch.Tensor,
    window: int | None,
    *,
    splits: int | None = None,
) -> torch.Tensor:
    starts = torch.arange(q.shape[0] + 1)
    tables = pages[rows.long()]
    return paged_attention(q.float(), _readable(pool), tables, sinks, starts, positions + 1, window).to(
        q.dtype
    )


def prefill_attention(
    q: torch.Tensor,
    pool: torch.Tensor,
    pages: torch.Tensor,
    span_rows: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    sinks: torch.Tensor,
    window: int | None,
    *,
    max_query: int,
    deterministic: bool = False,
    config: PrefillTiling | None = None,
) -> torch.Tensor:
    """Attention of S spans of queries over keys that the pool holds already, theirs among them → [T, heads, D].

    Span s owns tokens query_starts[s] .. query_starts[s + 1] - 1 of q: the last ones of the context_lens[s]
    positions of row span_rows[s]; int32 [S + 1], [S] and [S]. No span has more than `max_query` tokens. Rest
    as in `decode_attention`. With `deterministic` a query's result does not depend on how its prompt is cut
    into spans, nor on what else is in the batch.
    """
    tokens, heads, dim = q.shape
    spans, kv_heads = span_rows.shape[0], pool.shape[1]
    cut = config or (UNIFORM if deterministic else prefill_tiling(max_query))
    group = heads // kv_heads
    assert cut.block_m % group == 0
    out = torch.empty(tokens, heads, dim, dtype=q.dtype, device=q.device)
    overlap = pdl(q.device)
    blocks = triton.cdiv(max_query, cut.block_m // group)
    _prefill_kernel[(blocks, kv_heads, spans)](
        q, pool, pages, span_rows, query_starts, context_lens, sinks, out,
        _query_stride(q), pages.stride(0), *_planes(pool), LOG2E * dim**-0.5,
        GROUP=group, D=dim, PAGE=pool.shape[3], WINDOW=window or 0, BLOCK_M=cut.block_m, BLOCK_N=cut.block_n,
        PDL=overlap, num_warps=cut.warps, num_stages=cut.stages, launch_pdl=overlap,
    )  # fmt: skip
    return out


def prefill_attention_twin(
    q: torch.Tensor,
    pool: torch.Tensor,
    pages: torch.Tensor,
    span_rows: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    sinks: torch.Tensor,
    window: int | None,
    *,
    max_query: int,
    deterministic: bool = False,
) -> torch.Tensor:
    tables, keys = pages[span_rows.long()], _readable(pool)
    return paged_attention(q.float(), keys, tables, sinks, query_starts, context_lens, window).to(q.dtype)


def _readable(pool: torch.Tensor) -> torch.Tensor:
    """In a type that torch can gather from on every device."""
    return pool.to(torch.bfloat16) if pool.dtype.itemsize == 1 else pool


def _query_stride(q: torch.Tensor) -> int:
    """From token to token, in heads: so that Triton knows how it aligns."""
    heads, dim = q.shape[1:]
    assert q.stride(2) == 1
    assert q.stride(1) == dim or heads == 1
    assert q.stride(0) % dim == 0
    return q.stride(0) // dim


def _planes(pool: torch.Tensor) -> tuple[int, int]:
    assert pool[0, 0].numel() < 1 << 31, "places within a head's plane are int32"
    return plane_strides(pool)


@triton.jit
def _share(keys, split, TILE: tl.constexpr, SPLITS: tl.constexpr, LEAST: tl.constexpr):
    """First and end key of a split of `keys` keys, and how many splits have any."""
    tiles = (keys + TILE - 1) // TILE
    least = tl.maximum((tiles + SPLITS - 1) // SPLITS, LEAST)
    programs = (tiles + least - 1) // least
    share = (tiles + programs - 1) // programs  # so that the last one's is not much smaller
    used = (tiles + share - 1) // share
    first = split * share * TILE
    return first, tl.minimum(first + share * TILE, keys), used


@triton.jit
def _soften(scores, top, total, scale):
    """One step of the online softmax over the last axis → weights, new maximum and sum, and the old's factor.

    Every multiplication and addition that could be contracted is, explicitly: so that the same numbers give
    the same bits wherever this is compiled into.
    """
    axis: tl.constexpr = len(scores.shape) - 1
    best = tl.maximum(top, tl.max(scores, axis) * scale)
    weights = tl.exp2(tl.fma(scores, scale, -tl.expand_dims(best, axis)))
    shrink = tl.exp2(top - best)
    return weights, best, tl.fma(total, shrink, tl.sum(weights, axis)), shrink


@triton.jit(do_not_specialize=["q_stride", "page_stride", "kind_rows", "head_rows", "scale"])
def _decode_kernel(
    q, pool, pages, rows, positions, sinks, out, partials, stats, all_tickets,
    q_stride, page_stride, kind_rows, head_rows, scale,
    GROUP: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr,
    PARTS: tl.constexpr, KEYS: tl.constexpr, SPLITS: tl.constexpr, LEAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A program: one token, the heads of one group, a range of keys."""
    t = tl.program_id(0)
    kv = tl.program_id(1)
    split = tl.program_id(2)
    tile: tl.constexpr = PARTS * KEYS
    if PDL:
        gdc_launch_dependents()
    position = tl.load(positions + t)
    table = pages + tl.load(rows + t).to(tl.int64) * page_stride
    if WINDOW > 0:
        first = tl.maximum(position - WINDOW + 1, 0)
        end = position + 1
        used = 1
    else:
        first, end, used = _share(position + 1, split, tile, SPLITS, LEAST)
    if first < end:
        keys = pool + kv.to(tl.int64) * head_rows * D
        values = keys + kind_rows.to(tl.int64) * D
        token_head = t.to(tl.int64) * tl.num_programs(1) + kv
        if WINDOW > 0 and WINDOW <= tile:
            top, total, mixed = _attend_window(
                q, keys, values, table, first, end, t, kv, q_stride, scale, GROUP, D, PAGE, PARTS, KEYS, PDL
            )
        else:
            top, total, mixed = _attend_range(
                q, keys, values, table, first, end, t, kv, q_stride, scale, GROUP, D, PAGE, PARTS, KEYS, PDL
            )
        if SPLITS == 1:
            _finish(out, sinks, token_head, kv, top, total, mixed, GROUP, D)
        elif used == 1:
            _finish(out, sinks, token_head, kv, top, total, mixed, GROUP, D)
        else:
            _publish(partials, stats, token_head * SPLITS + split, top, total, mixed, GROUP, D)
            if is_last(all_tickets + token_head, used):
                _merge(out, sinks, partials, stats, token_head, kv, used, GROUP, D, SPLITS)
