"""Rotation and the write into scattered pages against the twin; the twin against loops in float64."""

from __future__ import annotations

import pytest
import torch

from mosso.kernels.gpu import rope

from .conftest import close

PAGE = 4
PAGES = 40
ROWS = 9
CONTEXT = 16


@pytest.fixture
def shape(device):
    """Query heads, key heads, D."""
    return (64, 8, 64) if device.type == "cuda" else (4, 2, 16)


def rounded(dtype):
    """Limits where only the result is rounded."""
    unit = torch.finfo(dtype).eps
    return {"worst": 0.55 * unit, "rms": 0.3 * unit}


def flips(dtype):
    """Limits between two roundings of all but equal numbers."""
    unit = torch.finfo(dtype).eps
    return {"worst": 1.1 * unit, "rms": 0.3 * unit}


def rerounded(dtype):
    """Limits where numbers were rounded at different places on the way."""
    unit = torch.finfo(dtype).eps
    return {"worst": 2.2 * unit, "rms": 0.8 * unit}


def scattered(tokens, device):
    """Rows, positions and page tables of `tokens` tokens, no two of which share a place in the pool."""
    places = torch.randperm((ROWS - 1) * CONTEXT)[:tokens]
    rows, positions = (places // CONTEXT).int().to(device), (places % CONTEXT).int().to(device)
    pages = torch.randperm(PAGES)[: ROWS * CONTEXT // PAGE].reshape(ROWS, -1).int().to(device)
    return rows, positions, pages


def tables(dim, device):
    angles = torch.rand(CONTEXT, dim // 2, device=device) * 6.28
    return angles.cos() * 1.35, angles.sin() * 1.35


def poisoned_pool(kv_heads, dim, dtype, device):
    pool = torch.full((2, kv_heads, PAGES, PAGE, dim), float("nan"), device=device)
    return pool.to(dtype)


def large_pool(kv_heads, dim, device):
    """A pool whose last planes lie beyond 2³¹ elements; one token that goes to the last page's place 3."""
    pages = (1 << 31) // (2 * kv_heads * PAGE * dim) + 40_000
    pool = torch.zeros(2, kv_heads, pages, PAGE, dim, dtype=torch.float8_e4m3fn, device=device)
    row, position = torch.zeros(1, dtype=torch.int32), torch.full((1,), 3, dtype=torch.int32)
    table = torch.full((1, 1), pages - 1, dtype=torch.int32)
    return pool, (row.to(device), position.to(device), table.to(device))


def last_page(pool):
    return pool[:, :, -1]


def written(rows, positions, pages):
    """A mask [PAGES, PAGE] of the places that tokens go to."""
    mask = torch.zeros(PAGES, PAGE, dtype=torch.bool, device=pages.device)
    at = positions.long()
    mask[pages[rows.long(), at // PAGE].long(), at % PAGE] = True
    return mask


def same_pools(got, want, mask, dtype):
    """dtype is what the kernels computed in."""
    unit = max(torch.finfo(got.dtype).eps, 2 * torch.finfo(dtype).eps)
    entries, wanted = got.float()[:, :, mask], want.float()[:, :, mask]
    if got.dtype == torch.float8_e4m3fn and got.device.type == "cpu":
        # Triton's interpreter loses the carry where rounding reaches the next power of two.
        entries = entries.where((entries - wanted).abs() <= (entries * 2 - wanted).abs(), entries * 2)
    close(entries, wanted, worst=1.1 * unit, rms=0.8 * unit)
    assert got.float()[:, :, ~mask].isnan().all(), "written outside the tokens' places"


@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("tokens", [1, 17])
def test_rotate_and_store(device, dtype, shape, tokens, pool_dtype):
    heads, kv_heads, dim = shape
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim, device=device).to(dtype)
    where = scattered(tokens, device)
    angles = tables(dim, device)
    pool = poisoned_pool(kv_heads, dim, pool_dtype, device)
    same, same_pool = qkv.clone(), pool.clone()
    before = qkv.clone()
    rope.rotate_and_store(qkv, *angles, *where, pool)
    rope.rotate_and_store_twin(same, *angles, *where, same_pool)
    close(qkv, same, **flips(dtype))
    assert qkv[:, heads * dim :].equal(before[:, heads * dim :])
    same_pools(pool, same_pool, written(*where), dtype)


def test_twin_against_loops(device, dtype, shape):
    heads, kv_heads, dim = shape
    tokens, half = 5, dim // 2
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim, device=device).to(dtype)
    rows, positions, pages = scattered(tokens, device)
    cos, sin = tables(dim, device)
    pool = poisoned_pool(kv_heads, dim, torch.float32, device)
    plain = qkv.double().unflatten(1, (-1, dim))
    rope.rotate_and_store_twin(qkv, cos, sin, rows, positions, pages, pool)
    for t in range(tokens):
        c, s = cos[positions[t]].double(), sin[positions[t]].double()
        first, second = plain[t, :, :half], plain[t, :, half:]
        turned = torch.cat((first * c - second * s, second * c + first * s), -1)
        close(qkv[t, : heads * dim], turned[:heads].flatten(), **rounded(dtype))
        page, offset = pages[rows[t], positions[t] // PAGE], positions[t] % PAGE
        close(pool[0, :, page, offset], turned[heads:-kv_heads], **rounded(dtype))
        close(pool[1, :, page, offset], plain[t, -kv_heads:], worst=1e-6, rms=1e-6)


def test_float8_saturates(device, dtype, shape):
    heads, kv_heads, dim = shape
    qkv = torch.randn(1, (heads + 2 * kv_heads) * dim, device=device).to(dtype) * 2000
    where = scattered(1, device)
    pool = poisoned_pool(kv_heads, dim, torch.float8_e4m3fn, device)
    rope.rotate_and_store(qkv, *tables(dim, device), *where, pool)
    entries = pool.float()[:, :, written(*where)]
    assert entries.abs().max() == 448


def test_pool_of_more_than_two_billion_elements(device, dtype, shape):
    if device.type != "cuda" or torch.cuda.mem_get_info()[0] < 8 << 30:
        pytest.skip("needs a GPU with 8 GiB free")
    heads, kv_heads, dim = shape
    pool, where = large_pool(kv_heads, dim, device)
    qkv = torch.randn(1, (heads + 2 * kv_heads) * dim, device=device).to(dtype)
    same, angles = qkv.clone(), tables(dim, device)
    rope.rotate_and_store(qkv, *angles, *where, pool)
    got = last_page(pool).clone()
    rope.rotate_and_store_twin(same, *angles, *where, pool)
    close(got.float()[:, :, 3], last_page(pool).float()[:, :, 3], worst=0.13, rms=0.06)
