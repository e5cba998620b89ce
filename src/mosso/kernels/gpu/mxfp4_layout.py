"""MXFP4 weights as the GPU kernels read them: 16-bit words that unpack to bfloat16 in two operations a value.

A matrix [N, K] is cut into tiles of ROWS rows and chunks of CHUNK columns; a tile's chunk is contiguous, and
so are the chunks of a tile. Word j (of 16) of a row's chunk holds the elements j, 16 + j, 32 + j and 48 + j,
one of each of the chunk's four planes, with their bits placed so that a shift and a mask give a bfloat16 that
is 2^-126 times the value. The planes 0 and 1 are one group of 32 with one scale, 2 and 3 the next:

    words   int16 [E, N / ROWS, K / CHUNK, ROWS, 16]         bits of the planes: see PLANE_SHIFTS
    scales  int16 [E, N, K / CHUNK, padded to whole SCALES]  low byte: planes 0 and 1, high byte: 2 and 3

A scale is held as the exponent field of the bfloat16 2^(s - 1), the factor from the unpacked value to the
weight. N and K are padded with zeros to whole tiles and chunks.
"""

from __future__ import annotations

import torch

from mosso.core.errors import CheckpointError

ROWS = 32
CHUNK = 64
PLANE = 16  # columns of a chunk in one plane
SCALES = 16  # fields of a row come in whole vectors of 32 bytes
LARGEST_SCALE = 128  # beyond it 2^(s - 1) is no bfloat16; published scales lie near 120
_EXPONENT_SHIFT = 126

# (mask, left shift) pairs: where each part of a nibble (sign 8, exponent 6, mantissa 1) goes in the word.
PLANE_SHIFTS = (
    ((8, 12), (7, 6)),  # sign 15, magnitude 8..6: in place
    ((8, 9), (7, 3)),  # three bits below
    ((8, 6), (7, 0)),  # six bits below
    ((8, 11), (6, 9), (1, 13)),  # what is left: sign 14, exponent 11..10, mantissa 13
)


def pack(blocks: torch.Tensor, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Checkpoint blocks uint8 [E, N, K/32, 16] and scales uint8 [E, N, K/32] → (words, scales).

    Raises CheckpointError for a scale above LARGEST_SCALE (weights of 6.0 and more).
    """
    if scales.numel() and int(scales.max()) > LARGEST_SCALE:
        raise CheckpointError(
            f"an MXFP4 scale is {int(scales.max())}; the GPU kernels hold scales up to {LARGEST_SCALE}"
        )
    return _tiles(_words(blocks)), _pad(_pad(_exponents(scales), 1, ROWS), 2, SCALES).contiguous()


def packed_shapes(experts: int, rows: int, columns: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes (of words, of scales) that `pack` gives E matrices [rows, columns]."""
    tiles, chunks = -(-rows // ROWS), -(-columns // CHUNK)
    fields = -(-chunks // SCALES) * SCALES
    return (experts, tiles, chunks, ROWS, PLANE), (experts, tiles * ROWS, fields)


def interleave_gate_up(rows: torch.Tensor) -> torch.Tensor:
    """Reorders axis 1 (2·I outputs: gates even, ups odd) so that each 16 rows are 8 gates, then their 8 ups.

    A gate and its up then lie eight rows apart, where a tensor-core accumulator has them in one thread.
    Any I: a last, partial block of 16 is padded with zeros first.
    """
    padded = _pad(rows, 1, 16)
    pairs = padded.unflatten(1, (-1, 8, 2))
    return pairs.transpose(2, 3).flatten(1, 3)


def _words(blocks: torch.Tensor) -> torch.Tensor:
    """blocks [E, N, G, 16] → int16 [E, N, chunks, 16]."""
    packed = _pad(blocks.flatten(-2), -1, CHUNK // 2).unflatten(-1, (-1, 4, PLANE // 2))
    words = None
    for plane, places in enumerate(PLANE_SHIFTS):
        pairs = packed[..., plane, :]
        nibbles = torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(-2).int()
        for mask, shift in places:
            part = (nibbles & mask) << shift
            words = part if words is None else words.bitwise_or_(part)
    assert words is not None
    return words.to(torch.int16)


def _exponents(scales: torch.Tensor) -> torch.Tensor:
    """scales [E, N, G] → int16 [E, N, chunks]: two exponent fields a chunk."""
    fields = _pad(scales, -1, 2).int() + _EXPONENT_SHIFT
    return (fields[..., 0::2] | (fields[..., 1::2] << 8)).to(torch.int16)


def _tiles(rows: torch.Tensor) -> torch.Tensor:
    """[E, N, chunks, w] → [E, N / ROWS, chunks, ROWS, w]."""
    tiled = _pad(rows, 1, ROWS).unflatten(1, (-1, ROWS))
    return tiled.transpose(2, 3).contiguous()


def _pad(x: torch.Tensor, axis: int, multiple: int) -> torch.Tensor:
    """Zeros at the end of an axis, up to a multiple."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    shape = list(x.shape)
    shape[axis] = missing
    return torch.cat((x, x.new_zeros(shape)), dim=axis)


def unpack(words: torch.Tensor, scales: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The weights float32 [E, rows, columns] of what `pack` made: the definition of the layout."""
    wide = words.int() & 0xFFFF
    planes = []
    for places in PLANE_SHIFTS:
        nibbles = torch.zeros_like(wide)
        for mask, shift in places:
            nibbles |= (wide >> shift) & mask
        planes.append(nibbles)
    codes = torch.stack(planes, dim=-2)  # [E, tiles, chunks, ROWS, 4, 16]
    exponent, mantissa = (codes & 6) >> 1, codes & 1
    magnitude = torch.where(
        exponent == 0, 0.5 * mantissa, torch.exp2(exponent.float() - 1) * (1 + 0.5 * mantissa)
    )
    values = torch.where(codes >= 8, -magnitude, magnitude)
    held = scales[..., : words.shape[2]]
    fields = torch.stack((held & 0xFF, (held >> 8) & 0xFF), dim=-1).float()
    factors = torch.exp2(fields - _EXPONENT_SHIFT - 127).repeat_interleave(2, dim=-1)  # [E, N, chunks, 4]
    tiled = factors.unflatten(1, (-1, ROWS)).transpose(2, 3)
    weights = values * tiled[..., None]
    return weights.flatten(-2).transpose(2, 3).flatten(1, 2).flatten(2)[:, :rows, :columns]
