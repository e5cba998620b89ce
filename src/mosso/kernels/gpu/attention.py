"""Attention over paged keys and values with sinks, in Triton; mosso.kernels.attention defines it.

Softmax runs online, in base 2: scores are scaled by log2(e)/√D, sinks by log2(e). Keys that a query must not
see are never read where their page may be another's, or never written: a NaN times a weight of zero is a NaN.

decode_attention    one query a row: a program has a token, a key/value head with all of its query heads, and
                    a split of the context; the last split to end merges them all
prefill_attention   spans of queries: a program has a block of queries, each with all query heads of one
                    key/value head
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels.attention import paged_attention
from mosso.kernels.gpu.launch import HOPPER, chip, num_multiprocessors, pdl
from mosso.kernels.gpu.rope import plane_strides
from mosso.kernels.gpu.tickets import TICKETS, is_last, tickets

LOG2E = math.log2(math.e)
_LOG2E = tl.constexpr(LOG2E)
_LOWEST = tl.constexpr(-1e30)  # a maximum of no scores: finite, so that differences of two are numbers
MOST_SPLITS = 64
MOST_HALVINGS = tl.constexpr(5)  # of the parts of a decode tile


@dataclass(frozen=True, slots=True)
class DecodeTiling:
    """A tile is parts · keys keys. Each part is a softmax of its own within a warp, until the end."""

    parts: int
    keys: int
    warps: int
    stages: int  # tiles in flight, plus one


@dataclass(frozen=True, slots=True)
class Split:
    """How programs share a token's tiles: up to `most` of them, each with about `tiles` or more."""

    most: int
    tiles: int


@dataclass(frozen=True, slots=True)
class PrefillTiling:
    """block_m query vectors (queries times the heads of a group) against block_n keys."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def decode_tiling(window: int | None, pairs: int, multiprocessors: int) -> DecodeTiling:
    """The choice for `pairs` pairs of a token and a key/value head.

    Few of them see a window of up to 128 keys as one tile, with a warp for each part: the shortest way. Else
    tiles are small, so that several programs share a multiprocessor.
    """
    if window is None or window > 128 or pairs > 2 * multiprocessors:
        return DecodeTiling(parts=4, keys=16, warps=4, stages=3)
    parts = max(1, triton.next_power_of_2(window) // 16)
    return DecodeTiling(parts=parts, keys=16, warps=parts, stages=2)


def split_of(pairs: int, multiprocessors: int) -> Split:
    """The choice for `pairs` pairs of a token and a key/value head.

    Four programs fill a multiprocessor. Two tiles are on their way at once, so a program has as many. Where
    the pairs alone fill the chip, only long contexts are split, so that none of them holds up the step: a
    program without tiles costs next to nothing. Few choices, since each is a kernel to compile.
    """
    if pairs > TICKETS:
        return Split(1, 1)
    wanted = 4 * multiprocessors // pairs
    if wanted >= 4:
        return Split(min(1 << (wanted.bit_length() - 1), MOST_SPLITS), 2)
    return Split(4, 8 if wanted >= 2 else 32)


def prefill_tiling(capability: tuple[int, int]) -> PrefillTiling:
    """Two programs, which take turns at the tensor cores and at the exponentials, fit a multiprocessor."""
    return PrefillTiling(block_m=128, block_n=64, warps=8 if capability >= HOPPER else 4, stages=3)


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
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of T tokens, each over its row's keys 0 .. position, its own among them → [T, heads, D].

    q [T, heads, D], of which only the first dimension may be strided; pool [2, KV, pages, page_size, D], in
    any floating-point type; pages int32 [R, P]; rows and positions int32 [T]; sinks float32 [heads].
    heads / KV is a power of two. `splits` fixes into how many programs a full context of any length is split;
    a window is never split. `out` is where the result goes, if anywhere in particular.

    Nothing that may still run when this kernel starts writes `rows`, `positions` and `pages`: they are read
    before the kernel ahead has ended.
    """
    tokens, heads, dim = q.shape
    kv_heads, pairs = pool.shape[1], tokens * pool.shape[1]
    multiprocessors = num_multiprocessors(q.device)
    cut = config or decode_tiling(window, pairs, multiprocessors)
    split = Split(1, 1)
    if window is None:
        split = split_of(pairs, multiprocessors) if splits is None else Split(splits, 1)
    out = _result(q) if out is None else out
    group = heads // kv_heads
    parts, stats, counters = None, None, None
    if split.most > 1:
        assert pairs <= TICKETS
        parts = torch.empty(pairs, split.most, group, dim, dtype=torch.float32, device=q.device)
        stats = torch.empty(pairs, split.most, 2, group, dtype=torch.float32, device=q.device)
        counters = tickets(q.device)
    assert cut.parts <= 1 << MOST_HALVINGS.value
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
    config: DecodeTiling | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """What decode_attention computes; `splits` and `config` change nothing."""
    starts = torch.arange(q.shape[0] + 1)
    tables, entries = pages[rows.long()], pool.to(q.dtype)
    mixed = paged_attention(q.float(), entries, tables, sinks, starts, positions + 1, window)
    return mixed.to(q.dtype) if out is None else out.copy_(mixed)


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
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of S spans of queries over keys that the pool holds, theirs among them → [T, heads, D].

    Span s owns tokens query_starts[s] .. query_starts[s + 1] - 1 of q: the last ones of the context_lens[s]
    positions of row span_rows[s]; int32 [S + 1], [S] and [S]. No span has more than `max_query` tokens. What
    tokens behind all spans get is not written. Rest as in `decode_attention`. With `deterministic` a query's
    result does not depend on how its prompt is cut into spans, nor on what else is in the batch.
    """
    _, heads, dim = q.shape
    spans, kv_heads = span_rows.shape[0], pool.shape[1]
    cut = config or (UNIFORM if deterministic else prefill_tiling(chip(q.device).capability))
    group = heads // kv_heads
    assert cut.block_m % group == 0
    out = _result(q) if out is None else out
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
    config: PrefillTiling | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """What prefill_attention computes; `max_query`, `deterministic` and `config` change nothing."""
    tables, entries, tokens = pages[span_rows.long()], pool.to(q.dtype), int(query_starts[-1])
    out = _result(q) if out is None else out
    out[:tokens] = paged_attention(
        q[:tokens].float(), entries, tables, sinks, query_starts, context_lens, window
    )
    return out


def _result(q: torch.Tensor) -> torch.Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


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
def _operand(query, keys):
    """Queries in the type of the products: beside 8-bit keys float16 in the place of bfloat16.

    Such keys and values become float16 exactly, two by one instruction; bfloat16 takes two more, on the unit
    that computes the exponentials. Queries lose nothing below float16's largest number, 65,504.
    """
    if keys.dtype.element_ty.primitive_bitwidth == 8 and query.dtype == tl.bfloat16:
        query = query.to(tl.float16)
    return query


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
        top, total, mixed = _attend(
            q, keys, values, table, first, end, t, kv, q_stride, scale,
            GROUP, D, PAGE, PARTS, KEYS, PDL,
        )  # fmt: skip
        if (SPLITS == 1) or (used == 1):
            _finish(out, sinks, token_head, kv, top, total, mixed, GROUP, D)
        else:
            _publish(partials, stats, token_head * SPLITS + split, top, total, mixed, GROUP, D)
            if is_last(all_tickets + token_head, used):
                _merge(out, sinks, partials, stats, token_head, kv, used, GROUP, D, SPLITS)


@triton.jit
def _attend(
    q, keys, values, table, first, end, t, kv, q_stride, scale,
    GROUP: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Keys first .. end - 1 → maximum [M] of the scaled scores, sum [M] of the weights, weighted sum [M, D].

    M is the group, padded: for the tensor cores to 16, in the result to 8. Products are batched over parts,
    which Triton gives to different warps: none waits for the others until all are merged.
    """
    rows: tl.constexpr = GROUP if GROUP > 16 else 16
    d = tl.arange(0, D)
    key = first + tl.arange(0, PARTS)[:, None] * KEYS + tl.arange(0, KEYS)[None, :]
    page = _page(table, key, end, PAGE)
    if PDL:
        _prefetch(keys + _place(page, key, PAGE) * D)
        _prefetch(values + _place(page, key, PAGE) * D)
        gdc_wait()
    member = tl.arange(0, rows)
    query_at = q + (t.to(tl.int64) * q_stride + kv * GROUP) * D + member[:, None] * D + d[None, :]
    query = _operand(tl.load(query_at, mask=(member < GROUP)[:, None], other=0.0), keys)
    query = tl.broadcast_to(query[None, :, :], (PARTS, rows, D))
    top = tl.full((PARTS, rows), _LOWEST, tl.float32)
    total = tl.zeros((PARTS, rows), tl.float32)
    mixed = tl.zeros((PARTS, rows, D), tl.float32)
    # Also where there is but one tile: a loop's loads all start before the first is waited for.
    for _ in tl.range(first, end, PARTS * KEYS):
        at = _place(page, key, PAGE)[:, :, None] * D + d[None, None, :]
        visible = key < end
        k = tl.load(keys + at, mask=visible[:, :, None], other=0.0)
        v = tl.load(values + at, mask=visible[:, :, None], other=0.0)
        scores = tl.dot(query, tl.trans(k.to(query.dtype), (0, 2, 1)), input_precision="ieee")
        scores = tl.where(visible[:, None, :], scores, -float("inf"))
        weights, top, total, shrink = _soften(scores, top, total, scale)
        mixed *= shrink[:, :, None]
        mixed = tl.dot(weights.to(query.dtype), v.to(query.dtype), mixed, input_precision="ieee")
        key += PARTS * KEYS
        page = _page(table, key, end, PAGE)  # a tile ahead of its keys
    if rows // 2 >= GROUP:
        top, total, mixed = _first_half(top), _first_half(total), _first_half(mixed)
    best = tl.max(top, 0)
    shrink = tl.exp2(top - best[None, :])
    return best, tl.sum(total * shrink, 0), _sum_over_parts(mixed * shrink[:, :, None])


@triton.jit
def _first_half(x):
    """Of [PARTS, M] or [PARTS, M, D] the first M / 2: a thread has both halves, so that nothing moves."""
    parts: tl.constexpr = x.shape[0]
    half: tl.constexpr = x.shape[1] // 2
    if len(x.shape) == 2:
        halves = tl.permute(tl.reshape(x, (parts, 2, half)), (0, 2, 1))
    else:
        halves = tl.permute(tl.reshape(x, (parts, 2, half, x.shape[2])), (0, 2, 3, 1))
    first, _ = tl.split(halves)
    return first


@triton.jit
def _sum_over_parts(x):
    """[PARTS, M, D] → [M, D]. Parts move into one thread first; tl.sum would exchange them one by one."""
    rows: tl.constexpr = x.shape[1]
    columns: tl.constexpr = x.shape[2]
    x = tl.permute(x, (1, 2, 0))
    for _ in tl.static_range(MOST_HALVINGS):
        if x.shape[2] > 1:
            first, second = tl.split(tl.reshape(x, (rows, columns, x.shape[2] // 2, 2)))
            x = first + second
    return tl.reshape(x, (rows, columns))


@triton.jit
def _page(table, key, end, PAGE: tl.constexpr):
    """Page ids of keys; of those from `end` on, which have none, page 0."""
    return tl.load(table + key.to(tl.uint32) // PAGE, mask=key < end, other=0)  # unsigned: a shift


@triton.jit
def _place(page, key, PAGE: tl.constexpr):
    """Places of keys within a head's plane."""
    return page * PAGE + (key.to(tl.uint32) % PAGE).to(tl.int32)


@triton.jit
def _prefetch(at):
    """Asks for lines, so that they reach the L2 cache while the kernel before still runs."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _finish(out, sinks, token_head, kv, top, total, mixed, GROUP: tl.constexpr, D: tl.constexpr):
    """The sinks join, and [M, D] is written."""
    member = tl.arange(0, mixed.shape[0])
    real = member < GROUP
    sink = tl.load(sinks + kv * GROUP + member, mask=real, other=0.0) * _LOG2E
    best = tl.maximum(top, sink)
    shrink = tl.exp2(top - best)
    mixed *= (shrink / (total * shrink + tl.exp2(sink - best)))[:, None]
    at = out + (token_head * GROUP + member)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(at, mixed.to(out.dtype.element_ty), mask=real[:, None])


@triton.jit
def _publish(partials, stats, part, top, total, mixed, GROUP: tl.constexpr, D: tl.constexpr):
    member = tl.arange(0, mixed.shape[0])
    real = member < GROUP
    tl.store(stats + part * (2 * GROUP) + member, top, mask=real)
    tl.store(stats + part * (2 * GROUP) + GROUP + member, total, mask=real)
    at = partials + (part * GROUP + member)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(at, mixed, mask=real[:, None])


@triton.jit
def _published(partials, stats, part, real, GROUP: tl.constexpr, D: tl.constexpr):
    member = tl.arange(0, GROUP)
    stats_at = stats + part * (2 * GROUP) + member
    at = partials + (part * GROUP + member)[:, None] * D + tl.arange(0, D)[None, :]
    top = tl.load(stats_at, mask=real, other=_LOWEST, cache_modifier=".cg")
    total = tl.load(stats_at + GROUP, mask=real, other=0.0, cache_modifier=".cg")
    return top, total, tl.load(at, mask=real, other=0.0, cache_modifier=".cg")


@triton.jit
def _merge(
    out, sinks, partials, stats, token_head, kv, used,
    GROUP: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """All splits' parts, always in the same order, whichever program does it."""
    chunk: tl.constexpr = 16 if SPLITS > 16 else SPLITS  # whose loads are under way at once
    best = tl.full((GROUP,), _LOWEST, tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    mixed = tl.zeros((GROUP, D), tl.float32)
    for start in tl.range(0, used, chunk):
        tops, totals, parts = tl.tuple(()), tl.tuple(()), tl.tuple(())
        for i in tl.static_range(chunk):
            part, real = token_head * SPLITS + start + i, start + i < used
            top, sums, values = _published(partials, stats, part, real, GROUP, D)
            tops += (top,)
            totals += (sums,)
            parts += (values,)
        before = best
        for i in tl.static_range(chunk):
            best = tl.maximum(best, tops[i])
        shrink = tl.exp2(before - best)
        total *= shrink
        mixed *= shrink[:, None]
        for i in tl.static_range(chunk):
            shrink = tl.exp2(tops[i] - best)
            total += totals[i] * shrink
            mixed += parts[i] * shrink[:, None]
    _finish(out, sinks, token_head, kv, best, total, mixed, GROUP, D)


@triton.jit(do_not_specialize=["q_stride", "page_stride", "kind_rows", "head_rows", "scale"])
def _prefill_kernel(
    q, pool, pages, span_rows, query_starts, context_lens, sinks, out,
    q_stride, page_stride, kind_rows, head_rows, scale,
    GROUP: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A program: BLOCK_M / GROUP queries of a span, each with the heads of one group.

    Packed this way few rows of a tile lie beyond a short span, or see nothing of a block of keys. The last
    queries, which see most, come first.
    """
    queries: tl.constexpr = BLOCK_M // GROUP
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    kv = tl.program_id(1)
    span = tl.program_id(2)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    begin = tl.load(query_starts + span)
    count = tl.load(query_starts + span + 1) - begin
    if block * queries < count:
        context = tl.load(context_lens + span)
        table = pages + tl.load(span_rows + span).to(tl.int64) * page_stride
        keys = pool + kv.to(tl.int64) * head_rows * D
        values = keys + kind_rows.to(tl.int64) * D

        m = tl.arange(0, BLOCK_M)
        n = tl.arange(0, BLOCK_N)
        d = tl.arange(0, D)
        index = block * queries + m // GROUP
        head = kv * GROUP + m % GROUP
        real = (index < count)[:, None]
        token = (begin + index).to(tl.int64)
        query_at = q + (token * q_stride + head)[:, None] * D + d[None, :]
        query = _operand(tl.load(query_at, mask=real, other=0.0), keys)
        position = context - count + index
        first = context - count + block * queries
        last = tl.minimum(first + queries, context) - 1
        lowest = tl.maximum(first - WINDOW + 1, 0) if WINDOW > 0 else first * 0

        # The sink is where the softmax starts from. Even one of -inf leaves the maximum a number.
        sink = tl.load(sinks + head) * _LOG2E
        top = tl.maximum(sink, _LOWEST)
        total = tl.exp2(sink - top)
        mixed = tl.zeros((BLOCK_M, D), tl.float32)
        aligned = lowest // BLOCK_N * BLOCK_N
        page = _page(table, aligned + n, last + 1, PAGE)
        for start in tl.range(aligned, last + 1, BLOCK_N):
            key = start + n
            at = _place(page, key, PAGE)[:, None] * D + d[None, :]
            held = ((key >= lowest) & (key <= last))[:, None]
            k = tl.load(keys + at, mask=held, other=0.0)
            v = tl.load(values + at, mask=held, other=0.0)
            scores = tl.dot(query, tl.trans(k.to(query.dtype)), input_precision="ieee")
            if start + BLOCK_N - 1 > first or (WINDOW > 0 and start + WINDOW <= last):
                distance = position[:, None] - key[None, :]
                visible = distance >= 0
                if WINDOW > 0:
                    visible &= distance < WINDOW
                scores = tl.where(visible, scores, -float("inf"))
            weights, top, total, shrink = _soften(scores, top, total, scale)
            mixed *= shrink[:, None]
            mixed = tl.dot(weights.to(query.dtype), v.to(query.dtype), mixed, input_precision="ieee")
            page = _page(table, key + BLOCK_N, last + 1, PAGE)  # a block ahead of its keys
        at = out + (token * (GROUP * tl.num_programs(1)) + head)[:, None] * D + d[None, :]
        tl.store(at, (mixed * (1 / total)[:, None]).to(out.dtype.element_ty), mask=real)
