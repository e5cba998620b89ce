"""Dense products of few tokens (T ≤ 64): bound by the read of the weights, so they stream them once.

Two ways, chosen by the number of tokens. For one or two tokens a program multiplies and adds whole rows in
float32, all of its weights in flight at once. For more, weights are the M side of tensor-core products, and
programs may share a row's columns (splits): the last one to end adds the parts up, always in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels.gpu.launch import pdl
from mosso.kernels.gpu.norm import rms_norm, rms_norm_twin
from mosso.kernels.gpu.rope import entry, plane_strides, rotate_and_store_twin, slot
from mosso.kernels.gpu.tickets import TICKETS, is_last, tickets
from mosso.kernels.linear import linear

Norm = tuple[torch.Tensor, float]  # weight float32 [K], eps

MOST_TOKENS = 64
MOST_QKV_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is cut. A program has `rows` rows of the weights and takes `depth` columns at a time."""

    dot: bool  # tensor cores, or multiply-adds
    rows: int
    depth: int
    warps: int
    splits: int = 1  # programs that share the columns of a row (dot only)
    stages: int = 1  # tiles in flight (dot only; multiply-adds have all of them in flight)
    fused_norm: bool = True  # within the product, or by a kernel before it


def tiling(tokens: int, n: int) -> Tiling:
    """The choice for `tokens` tokens and n rows.

    An H100 needs some 20 KiB of weights on their way to each of its multiprocessors at all times. So tiles
    grow with the tokens, which every tile reads again, and where few are left they are split or deepened.
    """
    wide = n >= 4096
    if tokens <= 2:
        return Tiling(dot=False, rows=4 // tokens, depth=1024, warps=4)
    if tokens <= 8:
        return Tiling(dot=True, rows=16, depth=128 if wide else 256, warps=1, stages=4)
    if tokens <= 16:
        return Tiling(dot=True, rows=32, depth=128, warps=2, stages=4, splits=1 if wide else 2)
    splits = 2 if wide else 4
    return Tiling(dot=True, rows=64, depth=64, warps=4, stages=5, splits=splits, fused_norm=False)


def library_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """x [T, K] · weight [N, K]ᵀ + bias [N] by the library, for any T → [T, N]; into `out`, if given."""
    return F.linear(x, weight, bias) if out is None else torch.addmm(bias, x, weight.T, out=out)


def linear_small(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm: Norm | None = None,
    residual: torch.Tensor | None = None,
    config: Tiling | None = None,
) -> torch.Tensor:
    """x [T, K] · weight [N, K]ᵀ + bias [N] for T ≤ 64 → [T, N] in weight's type.

    With `norm`, x is the float32 stream and is normed on the way. With `residual` (float32 [T, N]) the
    product is added to it in place, unrounded, and it is returned.
    """
    (tokens, depth), rows = x.shape, weight.shape[0]
    assert tokens <= MOST_TOKENS
    assert x.is_contiguous()
    assert weight.is_contiguous()
    assert residual is None or residual.is_contiguous()
    cut = config or tiling(tokens, rows)
    x, norm = _norm_apart(x, norm, weight.dtype, cut)
    out = residual
    if out is None:
        out = torch.empty(tokens, rows, dtype=weight.dtype, device=x.device)
    overlap = pdl(x.device)
    tiles = triton.cdiv(rows, cut.rows)
    _linear_kernel[(tiles, cut.splits)](
        x, weight if norm is None else norm[0], weight, weight if bias is None else bias, out,
        *_split_buffers(tiles, tokens, cut, x.device), tokens, 0.0 if norm is None else norm[1],
        N=rows, BIAS=bias is not None, ADD=residual is not None, NORM=norm is not None,
        **_cut_options(tokens, depth, cut), PDL=overlap, launch_pdl=overlap,
    )  # fmt: skip
    return out


def linear_small_twin(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm: Norm | None = None,
    residual: torch.Tensor | None = None,
    config: Tiling | None = None,
) -> torch.Tensor:
    if norm is not None:
        x = rms_norm_twin(x, *norm, weight.dtype)
    y = linear(x.float(), weight, None if bias is None else bias.float())
    if residual is None:
        return y.to(weight.dtype)
    residual += y
    return residual


def qkv_small(
    x: torch.Tensor,
    norm: Norm,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    pages: torch.Tensor,
    pool: torch.Tensor,
    *,
    config: Tiling | None = None,
) -> torch.Tensor:
    """Norm, QKV product, rotation and the write into the pool, for T ≤ 16 → queries [T, heads, D].

    x float32 [T, H], weight [(heads + 2·KV)·D, H], bias [(heads + 2·KV)·D]; the others as in
    `rope.rotate_and_store`. Queries come in weight's type.
    """
    (tokens, depth), width = x.shape, weight.shape[0]
    _, kv_heads, _, page_size, dim = pool.shape
    heads = width // dim - 2 * kv_heads
    cut = config or tiling(tokens, width)
    assert tokens <= MOST_QKV_TOKENS
    assert dim % cut.rows == 0, "a program's rotation pairs are of one head"
    assert x.is_contiguous()
    assert weight.is_contiguous()
    assert pages.stride(1) == 1
    x, fused = _norm_apart(x, norm, weight.dtype, cut)
    queries = torch.empty(tokens, heads, dim, dtype=weight.dtype, device=x.device)
    overlap = pdl(x.device)
    tiles = width // cut.rows
    _qkv_kernel[(tiles, cut.splits)](
        x, norm[0], weight, bias, queries, cos, sin, rows, positions, pages, pool,
        pages.stride(0), *plane_strides(pool),
        *_split_buffers(tiles, tokens, cut, x.device), tokens, norm[1],
        HEADS=heads, KV=kv_heads, PAGE=page_size, D=dim, NORM=fused is not None,
        **_cut_options(tokens, depth, cut), PDL=overlap, launch_pdl=overlap,
    )  # fmt: skip
    return queries


def qkv_small_twin(
    x: torch.Tensor,
    norm: Norm,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    pages: torch.Tensor,
    pool: torch.Tensor,
    *,
    config: Tiling | None = None,
) -> torch.Tensor:
    qkv = linear_small_twin(x, weight, bias, norm=norm)
    rotate_and_store_twin(qkv, cos, sin, rows, positions, pages, pool)
    return qkv.unflatten(1, (-1, pool.shape[-1]))[:, : -2 * pool.shape[1]]


def _norm_apart(
    x: torch.Tensor, norm: Norm | None, dtype: torch.dtype, cut: Tiling
) -> tuple[torch.Tensor, Norm | None]:
    """What the product reads, and the norm that is left for it to apply."""
    if norm is None or cut.fused_norm:
        return x, norm
    return rms_norm(x, *norm, dtype), None


def _block_of_tokens(tokens: int, cut: Tiling) -> int:
    return max(triton.next_power_of_2(tokens), 8 if cut.dot else 1)


def _cut_options(tokens: int, depth: int, cut: Tiling) -> dict[str, int | bool]:
    """Constants of a kernel's specialisation."""
    assert cut.dot or cut.splits == 1
    return {
        "K": depth,
        "DOT": cut.dot,
        "BLOCK_N": cut.rows,
        "BLOCK_T": _block_of_tokens(tokens, cut),
        "BLOCK_K": cut.depth,
        "SPLITS": cut.splits,
        "num_warps": cut.warps,
        "num_stages": cut.stages,
    }


def _split_buffers(
    tiles: int, tokens: int, cut: Tiling, device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Partial products and sums of squares of every program, and the tickets of the tiles."""
    if cut.splits == 1:
        return None, None, None
    assert tiles <= TICKETS
    block = _block_of_tokens(tokens, cut)
    products = torch.empty(tiles, cut.splits, cut.rows, block, dtype=torch.float32, device=device)
    squares = torch.empty(tiles, cut.splits, block, dtype=torch.float32, device=device)
    return products, squares, tickets(device)


@triton.jit
def weight_tiles(weight, n, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """All columns of rows n, as a tuple of tiles [BLOCK_N, 1, BLOCK_K]: every load is under way at once."""
    k = tl.arange(0, BLOCK_K)[None, None, :]
    at = weight + n[:, None, None] * K + k
    tiles = tl.tuple(())
    for start in tl.static_range(0, K, BLOCK_K):
        if start + BLOCK_K <= K:
            tiles += (tl.load(at + start),)
        else:
            tiles += (tl.load(at + start, mask=start + k < K, other=0.0),)
    return tiles


@triton.jit
def eights(at, K: tl.constexpr, start: tl.constexpr, BLOCK_K: tl.constexpr, real):
    """BLOCK_K float32 values from each of at [1, BLOCK_T, 1], as [1, BLOCK_T, BLOCK_K].

    Read as two groups of four, so that a thread gets the eight columns that it has of the 16-bit weights: the
    plain load would give it four, and then an exchange between threads for every chunk. Groups come first,
    since Triton lays threads along the first axis of those that are not contiguous.
    """
    low = start + tl.arange(0, BLOCK_K // 8)[:, None, None] * 8 + tl.arange(0, 4)[None, None, :]
    high = low + 4
    pairs = tl.join(
        tl.load(at + low, mask=(low < K) & real, other=0.0),
        tl.load(at + high, mask=(high < K) & real, other=0.0),
    )
    return tl.reshape(tl.permute(pairs, (1, 0, 3, 2)), (1, at.shape[1], BLOCK_K))


@triton.jit
def _multiply_add(
    tiles, x, gain, tokens,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Rows times tokens in float32 → products [BLOCK_N, BLOCK_T] and sums of squares [BLOCK_T]."""
    k = tl.arange(0, BLOCK_K)[None, None, :]
    t = tl.arange(0, BLOCK_T)
    token = t[None, :, None]
    products = tl.zeros((BLOCK_N, BLOCK_T, BLOCK_K), tl.float32)
    squares = tl.zeros((1, BLOCK_T, BLOCK_K), tl.float32)
    for chunk in tl.static_range(0, (K + BLOCK_K - 1) // BLOCK_K):
        if NORM:
            values = eights(x + token * K, K, chunk * BLOCK_K, BLOCK_K, token < tokens)
            squares += values * values
            values *= eights(gain + tl.zeros((1, 1, 1), tl.int32), K, chunk * BLOCK_K, BLOCK_K, True)
        else:
            column = chunk * BLOCK_K + k
            real = (column < K) & (token < tokens)
            values = tl.load(x + token * K + column, mask=real, other=0.0).to(tl.float32)
        products += tiles[chunk].to(tl.float32) * values
    return tl.sum(products, 2), tl.reshape(tl.sum(squares, 2), (BLOCK_T,))


@triton.jit
def _columns(split, K: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr):
    """First and end column of a split, which is a whole number of chunks but for the row's end."""
    chunks: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    share: tl.constexpr = (chunks + SPLITS - 1) // SPLITS * BLOCK_K
    return split * share, tl.minimum(split * share + share, K)


@triton.jit
def _prefetch(
    weight, n, split, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr
):
    """Asks for the program's weights, so that they reach the L2 cache while the kernel before still runs."""
    line: tl.constexpr = 64  # elements of 128 bytes
    share: tl.constexpr = ((K + BLOCK_K - 1) // BLOCK_K + SPLITS - 1) // SPLITS * BLOCK_K
    lines: tl.constexpr = triton.next_power_of_2((share + line - 1) // line)
    first, end = _columns(split, K, BLOCK_K, SPLITS)
    column = tl.minimum(first + tl.arange(0, lines) * line, end - 1)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [weight + n[:, None] * K + column[None, :]],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def _dot_product(
    weight, n, x, gain, split, tokens,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """As `_multiply_add`, on tensor cores, over the columns of one split."""
    first, end = _columns(split, K, BLOCK_K, SPLITS)
    k = tl.arange(0, BLOCK_K)
    t = tl.arange(0, BLOCK_T)
    weight_at = weight + n[:, None] * K + k[None, :]
    x_at = x + t[:, None] * K + k[None, :]
    real = (t < tokens)[:, None]
    products = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    squares = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
    for start in tl.range(first, end, BLOCK_K):
        if K % BLOCK_K == 0:
            w = tl.load(weight_at + start)
            values = tl.load(x_at + start, mask=real, other=0.0)
        else:
            inside = (start + k < K)[None, :]
            w = tl.load(weight_at + start, mask=inside, other=0.0)
            values = tl.load(x_at + start, mask=real & inside, other=0.0)
        if NORM:
            squares += values * values
            values *= tl.load(gain + start + k, mask=start + k < K, other=0.0)[None, :]
        products = tl.dot(w, tl.trans(values.to(w.dtype)), products)
    return products, tl.sum(squares, 1)


@triton.jit
def _publish(
    products, squares, all_products, all_squares, tile, split,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, SPLITS: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    part = tile * SPLITS + split
    n = tl.arange(0, BLOCK_N)[:, None]
    t = tl.arange(0, BLOCK_T)
    tl.store(all_products + (part * BLOCK_N + n) * BLOCK_T + t[None, :], products)
    if NORM:
        tl.store(all_squares + part * BLOCK_T + t, squares)


@triton.jit
def _gather(
    all_products, all_squares, tile,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, SPLITS: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Sums of all splits' parts, by ascending split, whichever program does it."""
    n = tl.arange(0, BLOCK_N)[:, None]
    t = tl.arange(0, BLOCK_T)
    products = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    squares = tl.zeros((BLOCK_T,), tl.float32)
    for split in tl.static_range(SPLITS):
        part = tile * SPLITS + split
        at = all_products + (part * BLOCK_N + n) * BLOCK_T + t[None, :]
        products += tl.load(at, cache_modifier=".cg")
        if NORM:
            squares += tl.load(all_squares + part * BLOCK_T + t, cache_modifier=".cg")
    return products, squares


@triton.jit
def _affine(products, squares, bias, eps, K: tl.constexpr, NORM: tl.constexpr):
    """The product of the normed tokens, plus the bias [BLOCK_N]."""
    if NORM:
        products *= tl.rsqrt(squares / K + eps)[None, :]
    return products + bias[:, None]


@triton.jit(do_not_specialize=["tokens", "eps"])
def _linear_kernel(
    x, gain, weight, bias, out, all_products, all_squares, all_tickets, tokens, eps,
    N: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, NORM: tl.constexpr,
    K: tl.constexpr, DOT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    split = tl.program_id(1)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < N
    row = n if N % BLOCK_N == 0 else tl.minimum(n, N - 1)
    if PDL:
        gdc_launch_dependents()
    offset = tl.load(bias + row).to(tl.float32) if BIAS else tl.zeros((BLOCK_N,), tl.float32)
    if DOT:
        if PDL:
            _prefetch(weight, row, split, K, BLOCK_N, BLOCK_K, SPLITS)
            gdc_wait()
        products, squares = _dot_product(
            weight, row, x, gain, split, tokens, K, BLOCK_N, BLOCK_T, BLOCK_K, SPLITS, NORM
        )
    else:
        tiles = weight_tiles(weight, row, K, BLOCK_K)
        if PDL:
            gdc_wait()
        products, squares = _multiply_add(tiles, x, gain, tokens, K, BLOCK_N, BLOCK_T, BLOCK_K, NORM)

    finish = True
    if SPLITS > 1:
        _publish(products, squares, all_products, all_squares, tile, split, BLOCK_N, BLOCK_T, SPLITS, NORM)
        finish = is_last(all_tickets + tile, SPLITS)
    if finish:
        if SPLITS > 1:
            products, squares = _gather(all_products, all_squares, tile, BLOCK_N, BLOCK_T, SPLITS, NORM)
        y = _affine(products, squares, offset, eps, K, NORM)
        t = tl.arange(0, BLOCK_T)[None, :]
        at = out + t * N + n[:, None]
        mask = (t < tokens) & inside[:, None]
        if ADD:
            # Nobody else adds to these elements: atomic only so that nobody waits for the old value.
            tl.atomic_add(at, y, mask=mask, sem="relaxed")
        else:
            tl.store(at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tokens", "eps", "page_stride", "kind_rows", "head_rows"])
def _qkv_kernel(
    x, gain, weight, bias, queries, cos, sin, rows, positions, pages, pool,
    page_stride, kind_rows, head_rows, all_products, all_squares, all_tickets, tokens, eps,
    HEADS: tl.constexpr, KV: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr, NORM: tl.constexpr,
    K: tl.constexpr, DOT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A program has BLOCK_N / 2 pairs of rows, i and i + D/2 of one head, neighbours in its tile."""
    tile = tl.program_id(0)
    split = tl.program_id(1)
    pairs: tl.constexpr = BLOCK_N // 2
    head = tile // (D // BLOCK_N)
    first_pair = tile % (D // BLOCK_N) * pairs
    j = tl.arange(0, BLOCK_N)
    row = head * D + first_pair + j // 2 + j % 2 * (D // 2)
    if PDL:
        gdc_launch_dependents()
    offset = tl.load(bias + row).to(tl.float32)
    if DOT:
        if PDL:
            _prefetch(weight, row, split, K, BLOCK_N, BLOCK_K, SPLITS)
    else:
        tiles = weight_tiles(weight, row, K, BLOCK_K)
    if PDL:
        gdc_wait()

    # Where results go is looked up ahead of the product: two loads in a row that the end need not wait for.
    t = tl.arange(0, BLOCK_T)
    real = t < tokens
    place = slot(rows, positions, pages, page_stride, t, PAGE, real)
    d = (first_pair + tl.arange(0, pairs))[:, None]
    angle = tl.load(positions + t, mask=real, other=0)[None, :] * (D // 2) + d
    c = tl.load(cos + angle)
    s = tl.load(sin + angle)

    if DOT:
        products, squares = _dot_product(
            weight, row, x, gain, split, tokens, K, BLOCK_N, BLOCK_T, BLOCK_K, SPLITS, NORM
        )
    else:
        products, squares = _multiply_add(tiles, x, gain, tokens, K, BLOCK_N, BLOCK_T, BLOCK_K, NORM)

    finish = True
    if SPLITS > 1:
        _publish(products, squares, all_products, all_squares, tile, split, BLOCK_N, BLOCK_T, SPLITS, NORM)
        finish = is_last(all_tickets + tile, SPLITS)
    if finish:
        if SPLITS > 1:
            products, squares = _gather(all_products, all_squares, tile, BLOCK_N, BLOCK_T, SPLITS, NORM)
        y = _affine(products, squares, offset, eps, K, NORM)
        halves = tl.permute(tl.reshape(y, (pairs, 2, BLOCK_T)), (0, 2, 1))
        first, second = tl.split(halves)
        mask = real[None, :]
        if head < HEADS + KV:
            left = first * c - second * s
            right = second * c + first * s
        else:
            left = first
            right = second
        if head < HEADS:
            query_at = queries + (t[None, :] * HEADS + head) * D + d
            tl.store(query_at, left.to(queries.dtype.element_ty), mask=mask)
            tl.store(query_at + D // 2, right.to(queries.dtype.element_ty), mask=mask)
        else:
            plane = (head - HEADS).to(tl.int64)
            place += plane // KV * kind_rows + plane % KV * head_rows
            entry_at = pool + place[None, :] * D + d
            tl.store(entry_at, entry(left, pool), mask=mask)
            tl.store(entry_at + D // 2, entry(right, pool), mask=mask)
