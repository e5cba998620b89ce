"""The residual stream: token embedding, root-mean-square norms, and what layers add to the stream.

The stream x is float32 [T, H]; the norms give what reads it `dtype`. One program a token, but where nothing
is normed: there several share its columns.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels.gpu.launch import pdl
from mosso.kernels.norm import rms_norm as rms_norm_rows

WARPS = 8
COLUMNS = 512  # of a program that norms nothing


def embed(
    table: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor, embedding: torch.Tensor
) -> torch.Tensor:
    """The stream's start, float32 [T, H]: embedding [V, H] of token table[rows[t], positions[t]].

    table int32 [R, C], rows and positions int32 [T]. The embedding may be in the host's pinned memory.
    """
    tokens, hidden = rows.shape[0], embedding.shape[1]
    assert table.stride(1) == 1
    assert embedding.is_contiguous()
    x = torch.empty(tokens, hidden, dtype=torch.float32, device=rows.device)
    overlap = pdl(rows.device)
    _embed_kernel[(tokens,)](
        table, rows, positions, embedding, x, table.stride(0),
        H=hidden, BLOCK=triton.next_power_of_2(hidden), PDL=overlap, num_warps=WARPS, launch_pdl=overlap,
    )  # fmt: skip
    return x


def embed_twin(
    table: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor, embedding: torch.Tensor
) -> torch.Tensor:
    tokens = table[rows.long(), positions.long()].long()
    return embedding[tokens.to(embedding.device)].float().to(rows.device)


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
    *,
    clear: torch.Tensor | None = None,
) -> torch.Tensor:
    """x [T, H] float32 normed by weight float32 [H] → [T, H] in `dtype`.

    clear: an int32 vector (of up to some hundred elements) that is zeroed on the way, for a later kernel
    that counts in it.
    """
    return _launch(x, None, weight, eps, dtype, clear)


def rms_norm_twin(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
    *,
    clear: torch.Tensor | None = None,
) -> torch.Tensor:
    if clear is not None:
        clear.zero_()
    return rms_norm_rows(x, weight, eps).to(dtype)


def add_rms_norm(x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x += delta in place, for x float32 [T, H] and delta [T, H] → the norm of the sum, in delta's type."""
    return _launch(x, delta[:, None], weight, eps, delta.dtype, None)


def add_rms_norm_twin(x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x += delta.float()
    return rms_norm_twin(x, weight, eps, delta.dtype)


def combine(x: torch.Tensor, parts: torch.Tensor) -> None:
    """x += the sum of parts [T, k, H] over k, in place, for x float32 [T, H]; in float32, by ascending k."""
    _launch(x, parts, None, 0.0, parts.dtype, None)


def combine_twin(x: torch.Tensor, parts: torch.Tensor) -> None:
    total = torch.zeros_like(x)
    for part in parts.unbind(1):
        total += part.float()
    x += total


def combine_rms_norm(
    x: torch.Tensor, parts: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    """`combine`, then the norm of the new x → [T, H] in `dtype`."""
    return _launch(x, parts, weight, eps, dtype, None)


def combine_rms_norm_twin(
    x: torch.Tensor, parts: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    combine_twin(x, parts)
    return rms_norm_twin(x, weight, eps, dtype)


def _launch(
    x: torch.Tensor,
    parts: torch.Tensor | None,
    weight: torch.Tensor | None,
    eps: float,
    dtype: torch.dtype,
    clear: torch.Tensor | None,
) -> torch.Tensor:
    """Every norm is this one kernel; without a weight the result is x itself."""
    block = COLUMNS if weight is None else triton.next_power_of_2(x.shape[1])
    tokens, hidden = x.shape
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert parts is None or parts.is_contiguous()
    out = x if weight is None else torch.empty(tokens, hidden, dtype=dtype, device=x.device)
    overlap = pdl(x.device)
    _norm_kernel[(tokens, triton.cdiv(hidden, block))](
        x, x if parts is None else parts, x if weight is None else weight, out, clear, eps,
        H=hidden, BLOCK=block,
        PARTS=0 if parts is None else parts.shape[1], NORM=weight is not None,
        CLEAR=0 if clear is None else clear.shape[0],
        CLEAR_BLOCK=1 if clear is None else triton.next_power_of_2(clear.shape[0]),
        PDL=overlap, num_warps=4 if weight is None else WARPS, launch_pdl=overlap,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["stride"])
def _embed_kernel(
    table, rows, positions, embedding, x, stride, H: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    t = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, BLOCK)
    row = tl.load(rows + t).to(tl.int64)
    token = tl.load(table + row * stride + tl.load(positions + t)).to(tl.int64)
    values = tl.load(embedding + token * H + h, mask=h < H, other=0.0)
    tl.store(x + t * H + h, values.to(tl.float32), mask=h < H)


@triton.jit(do_not_specialize=["eps"])
def _norm_kernel(
    x, parts, weight, out, clear, eps,
    H: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, NORM: tl.constexpr,
    CLEAR: tl.constexpr, CLEAR_BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if PDL:
        gdc_launch_dependents()
    if NORM:
        gain = tl.load(weight + h, mask=h < H, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    values = tl.load(x + t * H + h, mask=h < H, other=0.0)
    if PARTS > 0:
        total = tl.zeros((BLOCK,), tl.float32)
        for part in tl.static_range(PARTS):
            total += tl.load(parts + (t * PARTS + part) * H + h, mask=h < H, other=0.0).to(tl.float32)
        values += total
        tl.store(x + t * H + h, values, mask=h < H)
    if NORM:
        inverse = tl.rsqrt(tl.sum(values * values) / H + eps)
        tl.store(out + t * H + h, (values * inverse * gain).to(out.dtype.element_ty), mask=h < H)
    if CLEAR > 0 and t == 0:
        c = tl.arange(0, CLEAR_BLOCK)
        tl.store(clear + c, tl.zeros((CLEAR_BLOCK,), tl.int32), mask=c < CLEAR)
