"""The output head: logits of the last tokens, or at once the tokens drawn from them.

A program keeps the best token of its part of the vocabulary for each row, so the logits of `head_sample` are
never in memory; a second, small kernel picks the best of the parts. Few rows are bound by the read of the
weights (one row multiplies and adds, more use the matrix units with the weights as the tall operand), many by
the matrix units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels import noise
from mosso.kernels.gpu.launch import num_multiprocessors, pdl, ptx, shared_memory
from mosso.kernels.gpu.noise import gumbel, row_state, row_states
from mosso.kernels.gpu.norm import rms_norm
from mosso.kernels.norm import rms_norm as rms_norm_rows

Norm = tuple[torch.Tensor, float]  # weight [H] and epsilon of the norm before the head
Write = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # table int32 [R, C], rows and positions int32 [S]

_ROWS_AT_ONCE = tl.constexpr(16)  # of a tile's rows, so that their noise stays in registers


@dataclass(frozen=True, slots=True)
class RowConfig:
    """One row of h: programs that stay and walk over the vocabulary, `block_v` weight rows at a time."""

    block_v: int
    programs: int  # for each multiprocessor
    stages: int  # weight tiles in shared memory, under way or read; 1: none
    warps: int


@dataclass(frozen=True, slots=True)
class TileConfig:
    """A program for each tile of block_v tokens and block_s rows."""

    block_v: int
    block_s: int
    block_k: int
    stages: int
    warps: int


Config = RowConfig | TileConfig


def config_for(rows: int, shared_memory: int) -> Config:
    """The tiles for so many rows on a chip whose programs may use so many bytes of shared memory."""
    if rows == 1:
        return RowConfig(block_v=4, programs=3, stages=3, warps=4)
    if rows <= 16:
        config = TileConfig(block_v=64, block_s=16, block_k=64, stages=5, warps=4)
    elif rows <= 64:
        config = TileConfig(block_v=128, block_s=32 if rows <= 32 else 64, block_k=64, stages=4, warps=4)
    else:
        config = TileConfig(block_v=128, block_s=128, block_k=64, stages=3, warps=8)
    stage = 2 * (config.block_v + config.block_s) * config.block_k
    stages = max(2, min(config.stages, shared_memory // stage))
    return TileConfig(config.block_v, config.block_s, config.block_k, stages, config.warps)


def head(
    h: torch.Tensor, weight: torch.Tensor, *, norm: Norm | None = None, config: Config | None = None
) -> torch.Tensor:
    """Logits float32 [S, V] of h [S, H] with weight [V, H].

    With `norm`, h is the float32 stream and is normed on the way; without it h has weight's type.
    """
    logits = torch.empty(h.shape[0], weight.shape[0], dtype=torch.float32, device=h.device)
    _launch(h, weight, norm, config, None, logits)
    return logits


def head_twin(
    h: torch.Tensor, weight: torch.Tensor, *, norm: Norm | None = None, config: Config | None = None
) -> torch.Tensor:
    """What head computes; `config` changes nothing."""
    x = h if norm is None else rms_norm_rows(h, *norm)
    return F.linear(x.to(weight.dtype).float(), weight.float())


def head_sample(
    h: torch.Tensor,
    weight: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    *,
    norm: Norm | None = None,
    write: Write | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Tokens int32 [S], drawn from softmax(logits / temperature); the likeliest where temperature is 0.

    temperature float32 [S]; seed int64 [S] and position int32 [S], how many tokens the row has generated,
    fix the noise. Of equals the lowest id wins. `write` makes the token known too:
    table[rows, positions + 1] = token, `positions` being those of the tokens drawn from. Rest as in `head`.
    """
    draws = Draws(temperature, seed, position)
    values, tokens = _launch(h, weight, norm, config, draws, None)
    return pick(values, tokens, weight.shape[0], write)


def head_sample_twin(
    h: torch.Tensor,
    weight: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    *,
    norm: Norm | None = None,
    write: Write | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """What head_sample computes; `config` changes nothing."""
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


@dataclass(frozen=True, slots=True)
class Draws:
    """What S rows draw with."""

    temperature: torch.Tensor  # float32 [S]; 0: the likeliest
    seed: torch.Tensor  # int64 [S]
    position: torch.Tensor  # int32 [S]


def pick(values: torch.Tensor, tokens: torch.Tensor, vocab_size: int, write: Write | None) -> torch.Tensor:
    """The token int32 [S] of each row's largest value, of equals the lowest; values and tokens [S, parts]."""
    rows, parts = values.shape
    out = torch.empty(rows, dtype=torch.int32, device=values.device)
    table, row_ids, positions = (out, out, out) if write is None else write
    assert write is None or table.stride(1) == 1
    overlap = pdl(values.device)
    _pick_kernel[(rows,)](
        values, tokens, out, table, row_ids, positions, table.stride(0), parts, vocab_size,
        BLOCK=1024, WRITE=write is not None, PDL=overlap, num_warps=4, launch_pdl=overlap,
    )  # fmt: skip
    return out


def _launch(
    h: torch.Tensor,
    weight: torch.Tensor,
    norm: Norm | None,
    config: Config | None,
    draws: Draws | None,
    logits: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """With `draws` the best (value, token) of each row in each part [S, parts]; else writes `logits`."""
    rows, hidden = h.shape
    vocab_size = weight.shape[0]
    assert h.is_contiguous()
    assert weight.is_contiguous()
    assert weight.shape[1] == hidden
    assert weight.numel() < 1 << 31
    assert norm is not None or h.dtype == weight.dtype
    config = config or config_for(rows, shared_memory(h.device))
    parts = triton.cdiv(vocab_size, config.block_v)
    if isinstance(config, RowConfig):
        assert rows == 1
        parts = min(parts, config.programs * num_multiprocessors(h.device))
    shape = (0, 0) if draws is None else (rows, parts)
    values = torch.empty(shape, dtype=torch.float32, device=h.device)
    tokens = torch.empty(shape, dtype=torch.int32, device=h.device)
    result = (values, tokens, values if logits is None else logits)
    overlap = pdl(h.device)
    flags = {"SAMPLE": draws is not None, "PTX": ptx(h.device), "PDL": overlap, "launch_pdl": overlap}
    if isinstance(config, RowConfig):
        gain, eps = (h, 0.0) if norm is None else norm
        row = (h, h, h) if draws is None else (draws.temperature, draws.seed, draws.position)
        _row_kernel[(parts,)](
            h, gain, weight, *row, *result, eps, vocab_size, triton.cdiv(vocab_size, config.block_v), parts,
            H=hidden, BLOCK_K=triton.next_power_of_2(hidden), BLOCK_V=config.block_v, STAGES=config.stages,
            NORM=norm is not None, num_warps=config.warps, **flags,
        )  # fmt: skip
        return values, tokens
    x = h if norm is None else rms_norm(h, *norm, weight.dtype)
    draw = (h, h) if draws is None else (draws.temperature, row_states(draws.seed, draws.position))
    tiles_s = triton.cdiv(rows, config.block_s)
    _tile_kernel[(tiles_s * parts,)](
        x, weight, *draw, *result, rows, vocab_size, tiles_s, parts,
        H=hidden, BLOCK_V=config.block_v, BLOCK_S=config.block_s, BLOCK_K=config.block_k,
        STAGES=config.stages, num_warps=config.warps, **flags,
    )  # fmt: skip
    return values, tokens


@triton.jit(
    do_not_specialize=["eps", "tiles", "parts"],
    do_not_specialize_on_alignment=["temperature", "seed", "position"],
)
def _row_kernel(
    h, gain, weight, temperature, seed, position, values, tokens, logits, eps, V, tiles, parts,
    H: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, STAGES: tl.constexpr,
    NORM: tl.constexpr, SAMPLE: tl.constexpr, PTX: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    k = tl.arange(0, BLOCK_K)
    if PDL:
        gdc_launch_dependents()
    if NORM:
        scale = tl.load(gain + k, mask=k < H, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    x = tl.load(h + k, mask=k < H, other=0.0).to(tl.float32)
    if NORM:
        x = x * tl.rsqrt(tl.sum(x * x) / H + eps) * scale
        x = x.to(weight.dtype.element_ty).to(tl.float32)
    if SAMPLE:
        warmth = tl.load(temperature)
        inverse = 1 / tl.where(warmth > 0, warmth, 1.0)
        state = row_state(tl.load(seed), tl.load(position))
    best = tl.full((BLOCK_V,), -float("inf"), tl.float32)
    best_token = tl.full((BLOCK_V,), 0, tl.int32)
    for tile in tl.range(part, tiles, parts, num_stages=STAGES):
        v = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        # Rows past the end are read as the last one, so that loads need no mask but the constant k < H.
        at = tl.minimum(v, V - 1)[:, None] * H + k[None, :]
        w = tl.load(weight + at, mask=(k < H)[None, :], other=0.0, eviction_policy="evict_first")
        y = tl.sum(w.to(tl.float32) * x[None, :], 1)
        if SAMPLE:
            y = y * inverse
            if warmth > 0:
                y += gumbel(state, v, PTX)
            better = (y > best) & (v < V)
            best = tl.where(better, y, best)
            best_token = tl.where(better, v, best_token)
        else:
            tl.store(logits + v, y, mask=v < V)
    if SAMPLE:
        largest = tl.max(best)
        tl.store(values + part, largest)
        tl.store(tokens + part, tl.min(tl.where(best == largest, best_token, 2147483647)))


@triton.jit(do_not_specialize=["S", "tiles_s", "tiles_v"], do_not_specialize_on_alignment=["temperature"])
def _tile_kernel(
    x, weight, temperature, states, values, tokens, logits, S, V, tiles_s, tiles_v,
    H: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, SAMPLE: tl.constexpr, PTX: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    # Programs that share weights are neighbours, so that the weights come from memory once.
    tile_v = tl.program_id(0) // tiles_s
    s0 = tl.program_id(0) % tiles_s * BLOCK_S
    s = s0 + tl.arange(0, BLOCK_S)
    v = tile_v * BLOCK_V + tl.arange(0, BLOCK_V)
    k = tl.arange(0, BLOCK_K)
    # Rows past the end are read as the last one, so that loads need no mask.
    weight_at = weight + tl.minimum(v, V - 1)[:, None] * H + k[None, :]
    x_at = x + tl.minimum(s, S - 1)[None, :] * H + k[:, None]
    if PDL:
        gdc_wait()
    y = tl.zeros((BLOCK_V, BLOCK_S), tl.float32)
    for start in tl.range(0, H, BLOCK_K, num_stages=STAGES):
        if H % BLOCK_K == 0:
            w = tl.load(weight_at + start, eviction_policy="evict_first")
            y = tl.dot(w, tl.load(x_at + start), y)
        else:
            inside = start + k < H
            w = tl.load(weight_at + start, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            y = tl.dot(w, tl.load(x_at + start, mask=inside[:, None], other=0.0), y)
    if SAMPLE:
        _draw_tile(y, s0, v, temperature, states, values, tokens, S, V, tile_v, tiles_v, BLOCK_S, PTX)
    else:
        at = s[None, :].to(tl.int64) * V + v[:, None]
        tl.store(logits + at, y, mask=(s < S)[None, :] & (v < V)[:, None])


@triton.jit
def _draw_tile(
    y,
    s0,
    v,
    temperature,
    states,
    values,
    tokens,
    S,
    V,
    tile_v,
    tiles_v,
    SIZE: tl.constexpr,
    PTX: tl.constexpr,
):
    """The best token of each of the SIZE rows from s0 on, of logits y [BLOCK_V, SIZE] of tokens v."""
    if SIZE > _ROWS_AT_ONCE:
        left, right = tl.split(tl.permute(tl.reshape(y, (y.shape[0], 2, SIZE // 2)), (0, 2, 1)))
        _draw_tile(left, s0, v, temperature, states, values, tokens, S, V, tile_v, tiles_v, SIZE // 2, PTX)
        s0 += SIZE // 2
        _draw_tile(right, s0, v, temperature, states, values, tokens, S, V, tile_v, tiles_v, SIZE // 2, PTX)
    else:
        s = s0 + tl.arange(0, SIZE)
        warmth = tl.load(temperature + s, mask=s < S, other=0.0)
        y *= (1 / tl.where(warmth > 0, warmth, 1.0))[None, :]
        if tl.max(warmth) > 0:
            state = tl.load(states + s, mask=s < S, other=0).to(tl.uint64, bitcast=True)
            y += tl.where(warmth > 0, 1.0, 0.0)[None, :] * gumbel(state[None, :], v[:, None], PTX)
        y = tl.where((v < V)[:, None], y, -float("inf"))
        largest, index = tl.max(y, 0, return_indices=True, return_indices_tie_break_left=True)
        at = s * tiles_v + tile_v
        tl.store(values + at, largest, mask=s < S)
        tl.store(tokens + at, tile_v * y.shape[0] + index, mask=s < S)


@triton.jit(
    do_not_specialize=["stride", "parts"], do_not_specialize_on_alignment=["table", "rows", "positions"]
)
def _pick_kernel(
    values, tokens, out, table, rows, positions, stride, parts, V,
    BLOCK: tl.constexpr, WRITE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    s = tl.program_id(0)
    best = tl.full((BLOCK,), -float("inf"), tl.float32)
    best_token = tl.full((BLOCK,), 2147483647, tl.int32)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)
        value = tl.load(values + s * parts + part, mask=part < parts, other=-float("inf"))
        token = tl.load(tokens + s * parts + part, mask=part < parts, other=2147483647)
        better = (value > best) | ((value == best) & (token < best_token))
        best = tl.where(better, value, best)
        best_token = tl.where(better, token, best_token)
    chosen = tl.min(tl.where(best == tl.max(best), best_token, 2147483647))
    chosen = tl.minimum(chosen, V - 1)  # nothing but NaN in the row: still a token
    tl.store(out + s, chosen)
    if WRITE:
        row = tl.load(rows + s).to(tl.int64)
        tl.store(table + row * stride + tl.load(positions + s) + 1, chosen)
