"""The MXFP4 expert layer: two products over the tokens that each expert was given.

Weights stay 4-bit in memory and are unpacked in registers, as the M side of the tensor cores' product; tokens
are the N side, so that a few tokens cost little. There is no permuted copy of the activations: the router
leaves a list of pairs (token · k + slot) for each expert, and the products gather and scatter by it.

A grid has a column of programs for each tile of rows and one for each block of an expert's list. Which block
a program has follows from the counts; as many start as there can be, and the surplus ends at once.

On Hopper lists of middle length have a kernel of their own, in CUDA C++: see moe_hopper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.core.config import SWIGLU_ALPHA
from mosso.kernels.gpu import launch, moe_hopper
from mosso.kernels.gpu.mxfp4_layout import CHUNK, ROWS, interleave_gate_up, pack, unpack
from mosso.kernels.gpu.router import Routing
from mosso.kernels.swiglu import swiglu


@dataclass(frozen=True, slots=True)
class GpuExperts:
    """One layer's experts as mxfp4_layout lays them out; gate_up's rows in interleave_gate_up's order."""

    gate_up_words: torch.Tensor  # int16 [E, 2·I / ROWS, H / CHUNK, ROWS, 16]
    gate_up_scales: torch.Tensor  # int16 [E, 2·I, H / CHUNK, padded]
    gate_up_bias: torch.Tensor  # [E, 2·I], in the order of the rows
    down_words: torch.Tensor  # int16 [E, H / ROWS, I / CHUNK, ROWS, 16]
    down_scales: torch.Tensor  # int16 [E, H, I / CHUNK, padded]
    down_bias: torch.Tensor  # [E, H]

    @property
    def intermediate_size(self) -> int:
        return self.gate_up_bias.shape[1] // 2

    @property
    def hidden_size(self) -> int:
        return self.down_bias.shape[1]


def pack_experts(
    gate_up_blocks: torch.Tensor,
    gate_up_scales: torch.Tensor,
    gate_up_bias: torch.Tensor,
    down_blocks: torch.Tensor,
    down_scales: torch.Tensor,
    down_bias: torch.Tensor,
) -> GpuExperts:
    """From the checkpoint's tensors (see kernels.experts.PackedExperts). I must be a multiple of 8."""
    gate_up = pack(interleave_gate_up(gate_up_blocks), interleave_gate_up(gate_up_scales))
    return GpuExperts(
        *gate_up, interleave_gate_up(gate_up_bias), *pack(down_blocks, down_scales), down_bias.contiguous()
    )


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is cut: rows of weights, pairs and chunks a program takes at once."""

    rows: int
    pairs: int
    chunks: int  # of the inner axis in one turn of the loop
    warps: int
    stages: int
    splits: int = 1  # programs that share the inner axis, each with a result of its own (down only)


# ---- unpacking

# Two words (16 bits each) of neighbouring columns → the two columns' values in one of the four planes.
_PLANE_A: tl.constexpr = tl.constexpr("""
{
.reg .b32 t, zero;
mov.b32 zero, 0x80008000;
and.b32 t, $1, 0x81C081C0;
fma.rn.bf16x2 $0, t, $2, zero;
}
""")
_PLANE_B: tl.constexpr = tl.constexpr("""
{
.reg .b32 t, zero;
mov.b32 zero, 0x80008000;
shl.b32 t, $1, 3;
and.b32 t, t, 0x81C081C0;
fma.rn.bf16x2 $0, t, $2, zero;
}
""")
_PLANE_C: tl.constexpr = tl.constexpr("""
{
.reg .b32 t, zero;
mov.b32 zero, 0x80008000;
shl.b32 t, $1, 6;
and.b32 t, t, 0x81C081C0;
fma.rn.bf16x2 $0, t, $2, zero;
}
""")
_PLANE_D: tl.constexpr = tl.constexpr("""
{
.reg .b32 t, d, zero;
mov.b32 zero, 0x80008000;
shl.b32 t, $1, 1;
and.b32 d, t, 0x80008000;
shr.b32 t, $1, 3;
lop3.b32 d, t, 0x01800180, d, 0xEA;
shr.b32 t, $1, 7;
lop3.b32 d, t, 0x00400040, d, 0xEA;
fma.rn.bf16x2 $0, d, $2, zero;
}
""")

# A wgmma reads its weights from registers while the program goes on, and Triton lets the last of them run on
# into the loop's next turn, which writes those registers again. So the factors that planes are made with are
# not there before the wgmma that read the planes have ended: half of them for the first two planes, which is
# one group of them at least (Triton 3.7 commits the four in two groups, 3.6 in four). Turns of an unrolled
# loop have registers of their own, and Triton waits in between. A test checks the PTX (wgmma_hazards.py).
_HALF: tl.constexpr = tl.constexpr("wgmma.wait_group.sync.aligned 1; mov.b32 $0, $1;")
_ALL: tl.constexpr = tl.constexpr("wgmma.wait_group.sync.aligned 0; mov.b32 $0, $1;")

_PREFETCH: tl.constexpr = tl.constexpr("prefetch.global.L2 [$1]; mov.u32 $0, 0;")


@triton.jit
def _code_value(sign, exponent, mantissa, factor):
    """An E2M1 value, times its scale, by plain arithmetic: what the interpreter runs."""
    magnitude = tl.where(
        exponent == 0, 0.5 * mantissa, (1 << tl.maximum(exponent - 1, 0)) * (1.0 + 0.5 * mantissa)
    )
    return tl.where(sign != 0, -magnitude, magnitude) * factor


@triton.jit
def _plane(words, factors, ptx: tl.constexpr):
    factors = tl.broadcast_to(factors, words.shape)
    return tl.inline_asm_elementwise(
        ptx, "=r,r,r,r", [words, factors], dtype=tl.bfloat16, is_pure=True, pack=2
    )


@triton.jit
def _after(factors, wait: tl.constexpr):
    """The same factors, not there before what `wait` waits for."""
    return tl.inline_asm_elementwise(wait, "=r,r", [factors], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def _unpack(words, scales, dtype: tl.constexpr, PTX: tl.constexpr, WAIT: tl.constexpr):
    """words int16 [N, 16], scales int16 [N] → the chunk's weights [N, 64]."""
    fields = scales.to(tl.int32) & 0xFFFF
    if PTX:
        first = ((fields & 0xFF) * 0x00800080)[:, None]
        second = ((fields >> 8) * 0x00800080)[:, None]
        if WAIT:
            first, second = _after(first, _HALF), _after(second, _ALL)
        a, b = _plane(words, first, _PLANE_A), _plane(words, first, _PLANE_B)
        c, d = _plane(words, second, _PLANE_C), _plane(words, second, _PLANE_D)
    else:
        w = words.to(tl.int32) & 0xFFFF
        first = tl.exp2((fields & 0xFF).to(tl.float32) - 253.0)[:, None]
        second = tl.exp2((fields >> 8).to(tl.float32) - 253.0)[:, None]
        a = _code_value(w & 0x8000, (w >> 7) & 3, (w >> 6) & 1, first).to(dtype)
        b = _code_value(w & 0x1000, (w >> 4) & 3, (w >> 3) & 1, first).to(dtype)
        c = _code_value(w & 0x0200, (w >> 1) & 3, w & 1, second).to(dtype)
        d = _code_value(w & 0x4000, (w >> 10) & 3, (w >> 13) & 1, second).to(dtype)
    # All four planes of a column are in one thread, as the product wants them: nothing moves here.
    planes = tl.join(tl.join(a, c), tl.join(b, d))  # [N, 16, plane bit 0, plane bit 1]
    return tl.reshape(tl.permute(planes, (0, 2, 3, 1)), (words.shape[0], 4 * words.shape[1]))


# ---- which block a program has


@triton.jit
def _block(counts, index, E: tl.constexpr, PAIRS: tl.constexpr):
    """(expert, first place in its list, length of the list) of the index-th block; expert E: none."""
    sizes = tl.load(counts + tl.arange(0, E))
    ends = tl.cumsum((sizes + PAIRS - 1) // PAIRS, 0)
    expert = tl.sum((ends <= index).to(tl.int32), 0)
    mine = tl.arange(0, E) == expert
    count = tl.sum(tl.where(mine, sizes, 0), 0)
    first = tl.sum(tl.where(mine, ends - (sizes + PAIRS - 1) // PAIRS, 0), 0)
    return expert, (index - first) * PAIRS, count


@triton.jit
def _product(
    x_rows,  # pointers [PAIRS] to the activations of each pair
    real,  # [PAIRS], false where there is no pair: nothing is read then
    words,  # of the expert
    scales,
    n,  # [N] rows of the weights
    first,  # chunk
    COUNT: tl.constexpr,  # of chunks
    K: tl.constexpr,
    CHUNKS: tl.constexpr,  # of a row
    SCALE_STRIDE: tl.constexpr,
    N_PADDED: tl.constexpr,
    N: tl.constexpr,
    PAIRS: tl.constexpr,
    UNROLL: tl.constexpr,
    PTX: tl.constexpr,
    WGMMA: tl.constexpr,
):
    """weights · xᵀ → float32 [N, PAIRS]."""
    dtype: tl.constexpr = x_rows.dtype.element_ty
    R: tl.constexpr = 32
    inside = n < N_PADDED
    at = (n // R) * (CHUNKS * R) + n % R
    word_rows = words + (at * 16)[:, None] + tl.arange(0, 16)[None, :]
    scale_rows = scales + n * SCALE_STRIDE
    k = tl.arange(0, 64)
    acc = tl.zeros((N, PAIRS), tl.float32)
    for start in range(0, COUNT, UNROLL):
        for step in tl.static_range(UNROLL):
            chunk = first + start + step
            if N_PADDED % N == 0:
                w = tl.load(word_rows + chunk * (R * 16))
                s = tl.load(scale_rows + chunk)
            else:
                w = tl.load(word_rows + chunk * (R * 16), mask=inside[:, None], other=0)
                s = tl.load(scale_rows + chunk, mask=inside, other=0)
            columns = chunk * 64 + k
            seen = real[None, :]
            if K % 64 != 0:
                seen = seen & (columns < K)[:, None]
            x = tl.load(x_rows[None, :] + columns[:, None], mask=seen, other=0.0)
            acc = tl.dot(_unpack(w, s, dtype, PTX, WGMMA and UNROLL == 1), x, acc)
    return acc


@triton.jit
def _prefetch(first, WORDS: tl.constexpr):
    """Asks for so many 16-bit words from `first` on, to lie in L2 when they are loaded."""
    line = tl.arange(0, triton.next_power_of_2((WORDS + 63) // 64)) * 64
    where = first + tl.where(line < WORDS, line, 0)
    tl.inline_asm_elementwise(_PREFETCH, "=r,l", [where], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def _work(chosen, counts, E: tl.constexpr, PAIRS: tl.constexpr, DIRECT: tl.constexpr):
    """This program's (expert, first place in its list, length of the list).

    DIRECT: there is one token, and its slots are the blocks.
    """
    if DIRECT:
        expert = tl.load(chosen + tl.program_id(1))
        start = 0
        count = 1
    else:
        expert, start, count = _block(counts, tl.program_id(1), E, PAIRS)
    return expert, start, count


@triton.jit
def _pairs(expert_list, start, count, PAIRS: tl.constexpr, DIRECT: tl.constexpr):
    """The pairs [PAIRS] of a block, and which of them there are."""
    place = start + tl.arange(0, PAIRS)
    real = place < count
    if DIRECT:  # noqa: SIM108 - a branch of the compiler, not a choice at run time
        pair = tl.where(real, tl.program_id(1), 0)
    else:
        pair = tl.load(expert_list + place, mask=real, other=0)
    return pair, real


@triton.jit
def _gate_up_block(
    x,
    words,  # of the expert, as all that follow
    scales,
    bias,
    pairs_list,
    out,
    start,
    count,
    limit,
    H: tl.constexpr,
    INNER: tl.constexpr,
    N_PADDED: tl.constexpr,
    TOP_K: tl.constexpr,
    ALPHA: tl.constexpr,
    DIRECT: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
    UNROLL: tl.constexpr,
    PTX: tl.constexpr,
    WGMMA: tl.constexpr,
):
    CHUNKS: tl.constexpr = (H + 63) // 64
    SCALE_STRIDE: tl.constexpr = (CHUNKS + 15) // 16 * 16
    pair, real = _pairs(pairs_list, start, count, PAIRS, DIRECT)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    b = tl.load(bias + n, mask=n < 2 * INNER, other=0.0)
    acc = _product(
        x + (pair // TOP_K).to(tl.int64) * H, real, words, scales, n, 0,
        CHUNKS, H, CHUNKS, SCALE_STRIDE, N_PADDED, ROWS, PAIRS, UNROLL, PTX, WGMMA,
    )  # fmt: skip
    acc += b.to(tl.float32)[:, None]
    # Eight gates, then their eight ups: see interleave_gate_up.
    both = tl.permute(tl.reshape(acc, (ROWS // 16, 2, 8, PAIRS)), (0, 2, 3, 1))
    gate, up = tl.split(both)
    gate = tl.minimum(gate, limit)
    up = tl.minimum(tl.maximum(up, -limit), limit)
    act = tl.reshape(gate * tl.sigmoid(ALPHA * gate) * (up + 1.0), (ROWS // 2, PAIRS))
    column = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS // 2)
    target = out + (pair.to(tl.int64) * INNER)[None, :] + column[:, None]
    tl.store(target, act.to(out.dtype.element_ty), mask=real[None, :] & (column < INNER)[:, None])


@triton.jit(do_not_specialize=["stride"])
def _gate_up_kernel(
    x,  # [T, H]
    words,
    scales,
    bias,  # [E, 2·I]
    chosen,  # [T, TOP_K]
    lists,  # [E, stride]
    counts,  # [E]
    out,  # [T · TOP_K, I]
    stride,
    limit,
    H: tl.constexpr,
    INNER: tl.constexpr,
    N_PADDED: tl.constexpr,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    ALPHA: tl.constexpr,
    DIRECT: tl.constexpr,
    TAIL: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
    UNROLL: tl.constexpr,
    PTX: tl.constexpr,
    WGMMA: tl.constexpr,
    PDL: tl.constexpr,
):
    CHUNKS: tl.constexpr = (H + 63) // 64
    SCALE_STRIDE: tl.constexpr = (CHUNKS + 15) // 16 * 16
    if PDL:
        gdc_wait()
        # Only now: whoever starts behind us may then take the routing for final before its own wait.
        gdc_launch_dependents()
    expert, start, count = _work(chosen, counts, E, PAIRS, DIRECT)
    if expert >= E:
        return
    wide = expert.to(tl.int64)
    expert_words = words + wide * (N_PADDED * CHUNKS * 16)
    expert_scales = scales + wide * (N_PADDED * SCALE_STRIDE)
    expert_bias = bias + wide * (2 * INNER)
    expert_list = lists + wide * stride
    if PTX:  # scales are read a word a row, each time anew: from L2 that is no wait
        _prefetch(expert_scales + tl.program_id(0) * ROWS * SCALE_STRIDE, ROWS * SCALE_STRIDE)
    left = count - start
    if TAIL >= 2 and left <= PAIRS // 4:
        _gate_up_block(
            x, expert_words, expert_scales, expert_bias, expert_list, out, start, count, limit,
            H, INNER, N_PADDED, TOP_K, ALPHA, DIRECT, ROWS, PAIRS // 4, UNROLL, PTX, WGMMA,
        )  # fmt: skip
    elif TAIL >= 1 and left <= PAIRS // 2:
        _gate_up_block(
            x, expert_words, expert_scales, expert_bias, expert_list, out, start, count, limit,
            H, INNER, N_PADDED, TOP_K, ALPHA, DIRECT, ROWS, PAIRS // 2, UNROLL, PTX, WGMMA,
        )  # fmt: skip
    else:
        _gate_up_block(
            x, expert_words, expert_scales, expert_bias, expert_list, out, start, count, limit,
            H, INNER, N_PADDED, TOP_K, ALPHA, DIRECT, ROWS, PAIRS, UNROLL, PTX, WGMMA,
        )  # fmt: skip


@triton.jit
def _down_block(
    act,
    words,  # of the expert, as all that follow
    scales,
    bias,
    shares,
    pairs_list,
    out,
    start,
    count,
    H: tl.constexpr,
    INNER: tl.constexpr,
    N_PADDED: tl.constexpr,
    DIRECT: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
    UNROLL: tl.constexpr,
    PTX: tl.constexpr,
    WGMMA: tl.constexpr,
):
    CHUNKS: tl.constexpr = (INNER + 63) // 64
    SCALE_STRIDE: tl.constexpr = (CHUNKS + 15) // 16 * 16
    pair, real = _pairs(pairs_list, start, count, PAIRS, DIRECT)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    b = tl.load(bias + n, mask=n < H, other=0.0)
    share = tl.load(shares + pair)
    split = tl.program_id(2)
    acc = _product(
        act + pair.to(tl.int64) * INNER, real, words, scales, n, split * (CHUNKS // SPLITS),
        CHUNKS // SPLITS, INNER, CHUNKS, SCALE_STRIDE, N_PADDED, ROWS, PAIRS, UNROLL, PTX, WGMMA,
    )  # fmt: skip
    if split == 0:
        acc += b.to(tl.float32)[:, None]
    acc *= share[None, :]
    target = out + ((pair.to(tl.int64) * SPLITS + split) * H)[None, :] + n[:, None]
    tl.store(target, acc.to(out.dtype.element_ty), mask=real[None, :] & (n < H)[:, None])


@triton.jit(do_not_specialize=["stride"])
def _down_kernel(
    act,  # [T · TOP_K, I]
    words,
    scales,
    bias,  # [E, H]
    chosen,
    shares,  # [T, TOP_K]
    lists,
    counts,
    out,  # [T · TOP_K · SPLITS, H]
    stride,
    H: tl.constexpr,
    INNER: tl.constexpr,
    N_PADDED: tl.constexpr,
    E: tl.constexpr,
    DIRECT: tl.constexpr,
    TAIL: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
    UNROLL: tl.constexpr,
    PTX: tl.constexpr,
    WGMMA: tl.constexpr,
    PDL: tl.constexpr,
):
    CHUNKS: tl.constexpr = (INNER + 63) // 64
    SCALE_STRIDE: tl.constexpr = (CHUNKS + 15) // 16 * 16
    # The routing is final (gate_up let us start after its own wait): it may be read before ours.
    expert, start, count = _work(chosen, counts, E, PAIRS, DIRECT)
    if expert >= E:
        return
    wide = expert.to(tl.int64)
    expert_words = words + wide * (N_PADDED * CHUNKS * 16)
    expert_scales = scales + wide * (N_PADDED * SCALE_STRIDE)
    expert_bias = bias + wide * H
    expert_list = lists + wide * stride
    if PTX:
        _prefetch(expert_scales + tl.program_id(0) * ROWS * SCALE_STRIDE, ROWS * SCALE_STRIDE)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()  # only now, so that what comes next does not take memory from gate_up
    left = count - start
    if TAIL >= 2 and left <= PAIRS // 4:
        _down_block(
            act, expert_words, expert_scales, expert_bias, shares, expert_list, out, start, count,
            H, INNER, N_PADDED, DIRECT, SPLITS, ROWS, PAIRS // 4, UNROLL, PTX, WGMMA,
        )  # fmt: skip
    elif TAIL >= 1 and left <= PAIRS // 2:
        _down_block(
            act, expert_words, expert_scales, expert_bias, shares, expert_list, out, start, count,
            H, INNER, N_PADDED, DIRECT, SPLITS, ROWS, PAIRS // 2, UNROLL, PTX, WGMMA,
        )  # fmt: skip
    else:
        _down_block(
            act, expert_words, expert_scales, expert_bias, shares, expert_list, out, start, count,
            H, INNER, N_PADDED, DIRECT, SPLITS, ROWS, PAIRS, UNROLL, PTX, WGMMA,
        )  # fmt: skip


# ---- wrappers


def _largest_divisor(chunks: int, most: int) -> int:
    """The largest divisor of the number of chunks that is at most `most`: no loop has a tail."""
    return max(divisor for divisor in range(1, most + 1) if chunks % divisor == 0)


def _tail(tile: Tile) -> int:
    """By how many halvings of a block the last pairs of a list, where they are few, are taken."""
    return max(0, tile.pairs.bit_length() - MIN_TAIL.bit_length())


def _grid(tokens: int, top_k: int, experts: int, tile: Tile, direct: bool) -> int:
    """Blocks that there can be, whatever the router chooses."""
    pairs = tokens * top_k
    return pairs if direct else min(experts, pairs) + pairs // tile.pairs


MIN_TAIL = 64  # pairs; smaller blocks have no smaller ones for their tails
_SMALL_SHARED_MEMORY = 128 << 10  # bytes; chips below it get fewer stages
_LARGE_SHARED_MEMORY = 200 << 10  # Hopper's; chips below it get half the widest tile


def gate_up_tile(tokens: int, top_k: int, experts: int, shared_memory: int) -> Tile:
    """By the mean length of an expert's list; measured on an H100 (docs/facts.md)."""
    mean = tokens * top_k / experts
    if mean <= 4:
        return Tile(64, 8, 5 if tokens > 1 else 3, 4, 3)
    if mean <= 8:
        return Tile(128, 16, 5, 8, 3)
    if mean <= 24:
        return Tile(128, 32, 5, 8, 2)
    if mean <= 96:
        return Tile(128, 64, 3, 8, 3 if shared_memory >= _SMALL_SHARED_MEMORY else 2)
    if shared_memory < _LARGE_SHARED_MEMORY:
        return Tile(128, 128, 1, 8, 3)
    return Tile(128, 256, 1, 8, 4)


def down_tile(tokens: int, top_k: int, experts: int, shared_memory: int) -> Tile:
    """As gate_up_tile. One token has too few rows to fill the chip: there the inner axis is shared."""
    if tokens == 1:
        return Tile(64, 8, 3, 4, 3, splits=5)
    tile = gate_up_tile(tokens, top_k, experts, shared_memory)
    return Tile(128, 128, 1, 4, 4) if tile.pairs == 128 else tile


def gate_up(
    x: torch.Tensor, experts: GpuExperts, routing: Routing, limit: float, tile: Tile | None = None
) -> torch.Tensor:
    """SwiGLU(gate, up) of each pair: x [T, H] → [T · k, I] in x's type; unrouted pairs stay unwritten.

    An explicit `tile` is one of the Triton kernel's, which then is what runs.
    """
    if tile is None and (tuning := moe_hopper.gate_up_choice(x, experts, routing)):
        return moe_hopper.gate_up(x, experts, routing, limit, tuning)
    tokens, top_k = routing.chosen.shape
    num_experts, tiles = experts.gate_up_words.shape[:2]
    inner, hidden = experts.intermediate_size, x.shape[1]
    tile = tile or gate_up_tile(tokens, top_k, num_experts, launch.chip(x.device).shared_memory)
    direct = tokens == 1
    out = torch.empty(tokens * top_k, inner, dtype=x.dtype, device=x.device)
    pdl = launch.pdl(x.device)
    grid = (triton.cdiv(tiles * ROWS, tile.rows), _grid(tokens, top_k, num_experts, tile, direct))
    _gate_up_kernel[grid](
        x,
        experts.gate_up_words,
        experts.gate_up_scales,
        experts.gate_up_bias,
        routing.chosen,
        routing.lists,
        routing.counts,
        out,
        routing.lists.stride(0),
        limit,
        H=hidden,
        INNER=inner,
        N_PADDED=tiles * ROWS,
        E=num_experts,
        TOP_K=top_k,
        ALPHA=SWIGLU_ALPHA,
        DIRECT=direct,
        TAIL=_tail(tile),
        ROWS=tile.rows,
        PAIRS=tile.pairs,
        UNROLL=_largest_divisor(triton.cdiv(hidden, CHUNK), tile.chunks),
        PTX=launch.ptx(x.device),
        WGMMA=launch.wgmma(x.device),
        PDL=pdl,
        num_warps=tile.warps,
        num_stages=tile.stages,
        launch_pdl=pdl,
    )
    return out


def down(
    act: torch.Tensor,
    experts: GpuExperts,
    routing: Routing,
    dtype: torch.dtype | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """share · (down(act) + bias) of each pair: act [T · k, I] → [T, k · splits, H] as `dtype` (None: act's).

    A token's parts sum to its result, whatever their number. Those of unrouted pairs stay unwritten. `tile`:
    as in gate_up.
    """
    if tile is None and (tuning := moe_hopper.down_choice(act, experts, routing, dtype)):
        return moe_hopper.down(act, experts, routing, dtype, tuning)
    tokens, top_k = routing.chosen.shape
    num_experts, tiles = experts.down_words.shape[:2]
    inner, hidden = act.shape[1], experts.hidden_size
    tile = tile or down_tile(tokens, top_k, num_experts, launch.chip(act.device).shared_memory)
    direct = tokens == 1
    chunks = triton.cdiv(inner, CHUNK)
    splits = _largest_divisor(chunks, tile.splits)
    out = torch.empty(tokens, top_k * splits, hidden, dtype=dtype or act.dtype, device=act.device)
    pdl = launch.pdl(act.device)
    blocks = _grid(tokens, top_k, num_experts, tile, direct)
    grid = (triton.cdiv(tiles * ROWS, tile.rows), blocks, splits)
    _down_kernel[grid](
        act,
        experts.down_words,
        experts.down_scales,
        experts.down_bias,
        routing.chosen,
        routing.shares,
        routing.lists,
        routing.counts,
        out,
        routing.lists.stride(0),
        H=hidden,
        INNER=inner,
        N_PADDED=tiles * ROWS,
        E=num_experts,
        DIRECT=direct,
        TAIL=_tail(tile),
        SPLITS=splits,
        ROWS=tile.rows,
        PAIRS=tile.pairs,
        UNROLL=_largest_divisor(chunks // splits, tile.chunks),
        PTX=launch.ptx(act.device),
        WGMMA=launch.wgmma(act.device),
        PDL=pdl,
        num_warps=tile.warps,
        num_stages=tile.stages,
        launch_pdl=pdl,
    )
    return out


# ---- the twins


def gate_up_twin(
    x: torch.Tensor, experts: GpuExperts, routing: Routing, limit: float, tile: Tile | None = None
) -> torch.Tensor:
    """What gate_up computes, expert by expert; `tile` changes nothing."""
    tokens, top_k = routing.chosen.shape
    rows = experts.gate_up_bias.shape[1]
    out = torch.zeros(tokens * top_k, rows // 2, dtype=x.dtype, device=x.device)
    for expert, pairs in _lists(routing):
        one = slice(expert, expert + 1)
        weight = unpack(experts.gate_up_words[one], experts.gate_up_scales[one], rows, x.shape[1])[0].to(
            x.dtype
        )
        product = x[pairs // top_k].float() @ weight.float().T + experts.gate_up_bias[expert].float()
        gates_and_ups = product.unflatten(-1, (-1, 2, 8)).transpose(-1, -2).flatten(-3)
        out[pairs] = swiglu(gates_and_ups, limit).to(x.dtype)
    return out


def down_twin(
    act: torch.Tensor,
    experts: GpuExperts,
    routing: Routing,
    dtype: torch.dtype | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """What down computes, expert by expert; `tile` changes nothing."""
    tokens, top_k = routing.chosen.shape
    hidden = experts.hidden_size
    out = torch.zeros(tokens * top_k, hidden, dtype=dtype or act.dtype, device=act.device)
    for expert, pairs in _lists(routing):
        one = slice(expert, expert + 1)
        weight = unpack(experts.down_words[one], experts.down_scales[one], hidden, act.shape[1])[0].to(
            act.dtype
        )
        product = act[pairs].float() @ weight.float().T + experts.down_bias[expert].float()
        out[pairs] = (product * routing.shares.view(-1)[pairs, None]).to(out.dtype)
    return out.view(tokens, top_k, hidden)


def _lists(routing: Routing) -> list[tuple[int, torch.Tensor]]:
    counts = routing.counts.tolist()
    return [(e, routing.lists[e, :count].long()) for e, count in enumerate(counts) if count]
