"""Products of few tokens against their twins, which are held to float64."""

from __future__ import annotations

import pytest
import torch

from mosso.kernels.gpu import linear
from mosso.kernels.gpu.linear import Tiling

from .conftest import close
from .test_rope import (
    flips,
    large_pool,
    last_page,
    poisoned_pool,
    rerounded,
    rounded,
    same_pools,
    scattered,
    tables,
    written,
)

EPS = 1e-5
FMA = Tiling(dot=False, rows=4, depth=64, warps=4)
DOT = Tiling(dot=True, rows=16, depth=32, warps=1, stages=3)
APART = Tiling(dot=True, rows=16, depth=32, warps=1, stages=3, fused_norm=False)
SPLIT = Tiling(dot=True, rows=16, depth=32, warps=2, stages=2, splits=3)
CUTS = [None, FMA, DOT, SPLIT]


def sizes(device):
    """N, K: neither a whole number of tiles nor of chunks, unless the real ones."""
    return [(5120, 2880), (2880, 4096)] if device.type == "cuda" else [(72, 144)]


def some(tokens, n, k, device, dtype):
    x = torch.randn(tokens, k, device=device)
    weight = (torch.randn(n, k, device=device) / k**0.5).to(dtype)
    bias = torch.randn(n, device=device).to(dtype)
    return x, weight, bias


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 17, 64])
def test_linear_small(device, dtype, tokens, cut):
    for n, k in sizes(device):
        x, weight, bias = some(tokens, n, k, device, dtype)
        if cut is FMA and tokens > 4:
            continue
        got = linear.linear_small(x.to(dtype), weight, bias, config=cut)
        want = linear.linear_small_twin(x.to(dtype), weight, bias)
        assert got.dtype == dtype
        close(got, want, **flips(dtype))
        close(want, x.to(dtype).double() @ weight.double().T + bias.double(), **rounded(dtype))


@pytest.mark.parametrize("cut", [*CUTS, APART])
@pytest.mark.parametrize("tokens", [1, 3, 17])
def test_norm(device, dtype, tokens, cut):
    for n, k in sizes(device):
        x, weight, bias = some(tokens, n, k, device, dtype)
        if cut is FMA and tokens > 4:
            continue
        x *= torch.rand(tokens, 1, device=device) * 20
        gain = 1 + torch.randn(k, device=device) / 2
        got = linear.linear_small(x, weight, bias, norm=(gain, EPS), config=cut)
        close(got, linear.linear_small_twin(x, weight, bias, norm=(gain, EPS)), **rerounded(dtype))
        wide = x.double() * (x.double().square().mean(-1, keepdim=True) + EPS).rsqrt() * gain
        close(got, wide @ weight.double().T + bias.double(), **rerounded(dtype))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("tokens", [1, 3, 17])
def test_residual(device, dtype, tokens, cut):
    for n, k in sizes(device):
        x, weight, _ = some(tokens, n, k, device, dtype)
        if cut is FMA and tokens > 4:
            continue
        residual = torch.randn(tokens, n, device=device)
        same = residual.clone()
        got = linear.linear_small(x.to(dtype), weight, residual=residual, config=cut)
        assert got is residual
        want = linear.linear_small_twin(x.to(dtype), weight, residual=same)
        close(got, want, worst=1e-4, rms=1e-5)


def test_splits_repeat_exactly(device, dtype):
    """Whichever program ends last, the parts are added in one order."""
    n, k = sizes(device)[0]
    x, weight, bias = some(17, n, k, device, dtype)
    first = linear.linear_small(x.to(dtype), weight, bias, config=SPLIT)
    for _ in range(3):
        assert linear.linear_small(x.to(dtype), weight, bias, config=SPLIT).equal(first)


@pytest.mark.parametrize("cut", [*CUTS, APART])
@pytest.mark.parametrize("tokens", [1, 3, 16])
@pytest.mark.parametrize("pool_dtype", [None, torch.float8_e4m3fn])
def test_qkv_small(device, dtype, tokens, cut, pool_dtype):
    heads, kv_heads, dim, hidden = (64, 8, 64, 2880) if device.type == "cuda" else (2, 2, 32, 144)
    if cut is FMA and tokens > 4:
        pytest.skip("multiply-adds are for few tokens")
    x, weight, bias = some(tokens, (heads + 2 * kv_heads) * dim, hidden, device, dtype)
    norm = 1 + torch.randn(hidden, device=device) / 2, EPS
    where = scattered(tokens, device)
    pool = poisoned_pool(kv_heads, dim, pool_dtype or dtype, device)
    same = pool.clone()
    angles = tables(dim, device)
    got = linear.qkv_small(x, norm, weight, bias, *angles, *where, pool, config=cut)
    want = linear.qkv_small_twin(x, norm, weight, bias, *angles, *where, same)
    assert got.shape == (tokens, heads, dim)
    assert got.is_contiguous()
    close(got, want, **rerounded(dtype))
    same_pools(pool, same, written(*where), dtype)


def test_pool_of_more_than_two_billion_elements(device, dtype):
    if device.type != "cuda" or torch.cuda.mem_get_info()[0] < 8 << 30:
        pytest.skip("needs a GPU with 8 GiB free")
    x, weight, bias = some(1, 5120, 2880, device, dtype)
    pool, where = large_pool(8, 64, device)
    norm, angles = (torch.rand(2880, device=device), EPS), tables(64, device)
    linear.qkv_small(x, norm, weight, bias, *angles, *where, pool)
    got = last_page(pool).clone()
    linear.qkv_small_twin(x, norm, weight, bias, *angles, *where, pool)
    close(got.float()[:, :, 3], last_page(pool).float()[:, :, 3], worst=0.13, rms=0.06)


def test_choices_fit_the_smallest_chip():
    """Every choice's tiles in flight fit the 99 KiB of shared memory of sm_86, sm_89 and sm_120."""
    for tokens in range(1, linear.MOST_TOKENS + 1):
        for n in (2880, 5120):
            cut = linear.tiling(tokens, n)
            x_bytes = 4 if cut.fused_norm else 2
            block = max(8, 1 << (tokens - 1).bit_length())
            assert cut.stages * cut.depth * (cut.rows * 2 + block * x_bytes) <= 99 * 1024 or not cut.dot
