"""Rotary embedding of queries and keys, and the write of keys and values into their pages."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels.gpu.launch import pdl
from mosso.kernels.rope import apply_rope

FP8_LARGEST = tl.constexpr(448.0)


def rotate_and_store(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    pages: torch.Tensor,
    pool: torch.Tensor,
) -> None:
    """Rotates the queries within qkv [T, (heads + 2·KV)·D]; stores rotated keys, and values, into the pool.

    cos and sin float32 [C, D/2]; rows and positions int32 [T]; pages int32 [R, P]: the page table of the
    layer's group; pool [2, KV, pages, page_size, D]. Token t goes to page
    pages[rows[t], position // page_size].
    The keys and values within qkv stay as they were. What is too large for a float8 pool is clamped.
    """
    tokens, width = qkv.shape
    _, kv_heads, _, page_size, dim = pool.shape
    heads = width // dim
    assert qkv.is_contiguous()
    assert pages.stride(1) == 1
    overlap = pdl(qkv.device)
    _rotate_kernel[(tokens,)](
        qkv, cos, sin, rows, positions, pages, pool, pages.stride(0), *plane_strides(pool),
        HEADS=heads - 2 * kv_heads, KV=kv_heads, PAGE=page_size, D=dim, BLOCK=triton.next_power_of_2(heads),
        PDL=overlap, num_warps=4, launch_pdl=overlap,
    )  # fmt: skip


def rotate_and_store_twin(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    pages: torch.Tensor,
    pool: torch.Tensor,
) -> None:
    _, kv_heads, _, page_size, dim = pool.shape
    heads = qkv.unflatten(1, (-1, dim))
    at = positions.long()
    rotated = apply_rope(heads[:, :-kv_heads], cos[at], sin[at])
    heads[:, : -2 * kv_heads] = rotated[:, :-kv_heads]
    entries = torch.stack((rotated[:, -kv_heads:], heads[:, -kv_heads:])).transpose(1, 2)
    if pool.dtype == torch.float8_e4m3fn:
        entries = entries.float().clamp(-FP8_LARGEST.value, FP8_LARGEST.value)
    entries = entries.to(pool.dtype)
    if pool.dtype.itemsize == 1:  # not every device assigns by index in float8
        pool, entries = pool.view(torch.uint8), entries.view(torch.uint8)
    pool[:, :, pages[rows.long(), at // page_size].long(), at % page_size] = entries


def plane_strides(pool: torch.Tensor) -> tuple[int, int]:
    """From keys to values and from head to head, in rows of D: so that Triton knows how they align."""
    dim = pool.shape[-1]
    assert pool[0, 0].is_contiguous()
    assert pool.stride(0) % dim == pool.stride(1) % dim == 0
    return pool.stride(0) // dim, pool.stride(1) // dim


@triton.jit
def entry(values, pool):
    """Values as the pool stores them: float8 saturates."""
    if pool.dtype.element_ty == tl.float8e4nv:
        values = tl.minimum(tl.maximum(values.to(tl.float32), -FP8_LARGEST), FP8_LARGEST)
    return values.to(pool.dtype.element_ty)


@triton.jit
def slot(rows, positions, pages, stride, t, PAGE: tl.constexpr, mask=None):
    """Where in a head's plane of the pool token t goes: page id · page_size + offset, int64."""
    position = tl.load(positions + t, mask=mask)
    row = tl.load(rows + t, mask=mask).to(tl.int64)
    page = tl.load(pages + row * stride + position // PAGE, mask=mask).to(tl.int64)
    return page * PAGE + position % PAGE


@triton.jit(do_not_specialize=["page_stride", "kind_rows", "head_rows"])
def _rotate_kernel(
    qkv, cos, sin, rows, positions, pages, pool, page_stride, kind_rows, head_rows,
    HEADS: tl.constexpr, KV: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One program rotates all heads of one token."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    t = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, D // 2)[None, :]
    head = tl.arange(0, BLOCK)[:, None]
    position = tl.load(positions + t).to(tl.int64)
    first_at = qkv + t * ((HEADS + 2 * KV) * D) + head * D + d
    valid = head < HEADS + 2 * KV
    first = tl.load(first_at, mask=valid).to(tl.float32)
    second = tl.load(first_at + D // 2, mask=valid).to(tl.float32)
    c = tl.load(cos + position * (D // 2) + d)
    s = tl.load(sin + position * (D // 2) + d)
    turned = head < HEADS + KV
    left = tl.where(turned, first * c - second * s, first)
    right = tl.where(turned, second * c + first * s, second)

    query = head < HEADS
    tl.store(first_at, left.to(qkv.dtype.element_ty), mask=query)
    tl.store(first_at + D // 2, right.to(qkv.dtype.element_ty), mask=query)

    kind = (head >= HEADS + KV).to(tl.int64)
    plane = pool + kind * kind_rows * D + (head - HEADS - kind * KV) * head_rows * D
    target = plane + slot(rows, positions, pages, page_stride, t, PAGE) * D + d
    stored = valid & (head >= HEADS)
    # Rounded to the type of qkv first, as the queries are.
    tl.store(target, entry(left.to(qkv.dtype.element_ty), pool), mask=stored)
    tl.store(target + D // 2, entry(right.to(qkv.dtype.element_ty), pool), mask=stored)
