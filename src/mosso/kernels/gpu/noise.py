"""The noise of `mosso.kernels.noise` inside Triton kernels: a pure function of seed, position and token.

Twin: `mosso.kernels.noise.gumbel`, in float64 within 1e-5 of it. The random bits are the same ones.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels.gpu.launch import pdl

_GAMMA = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND = tl.constexpr(0x94D049BB133111EB)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * _FIRST
    x = (x ^ (x >> 27)) * _SECOND
    return x ^ (x >> 31)


@triton.jit
def row_state(seed, position):
    """What a row's tokens share, uint64, from seed int64 and position int32 of any shape."""
    step = position.to(tl.int64).to(tl.uint64, bitcast=True) * _GAMMA
    return _mix(_mix(seed.to(tl.uint64, bitcast=True) + _GAMMA) + step)


def row_states(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """`row_state` of seed int64 [S] and position int32 [S] as bits of int64 [S].

    For kernels where every thread would hash many rows: that costs as much as the noise itself.
    """
    rows, block = seed.shape[0], 128
    states = torch.empty_like(seed)
    overlap = pdl(seed.device)
    _states_kernel[(triton.cdiv(rows, block),)](
        seed, position, states, rows, BLOCK=block, PDL=overlap, num_warps=4, launch_pdl=overlap
    )
    return states


@triton.jit(do_not_specialize=["S"], do_not_specialize_on_alignment=["seed", "position"])
def _states_kernel(seed, position, states, S, BLOCK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    s = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    state = row_state(tl.load(seed + s, mask=s < S, other=0), tl.load(position + s, mask=s < S, other=0))
    tl.store(states + s, state.to(tl.int64, bitcast=True), mask=s < S)


@triton.jit
def _log2(x, PTX: tl.constexpr):
    """Within 2^-22, of the larger of 1 and the result: one instruction where there is one."""
    if PTX:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.log2(x)


@triton.jit
def _small_integer(x):
    """float32 of an integer below 2^23, put where a float's fraction is: conversions are slow."""
    return (x | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0


@triton.jit
def gumbel(state, token, PTX: tl.constexpr):
    """Standard Gumbel noise, float32, of `token` int32 in a row of `state`; the two broadcast."""
    x = _mix(state + (token + 1).to(tl.uint64) * _GAMMA)
    high = _small_integer((x >> 44).to(tl.uint32))
    low = _small_integer((x >> 24).to(tl.uint32) & 0xFFFFF)
    u = tl.minimum((tl.fma(high, 1048576.0, low) + 0.5) * 9.094947017729282e-13, 0.999999940395355)
    # -ln(1 - u): 1 - u forgets the low bits of a small u, so below 1/16 the series, within 2e-7 of it.
    series = u * (1 + u * (0.5 + u * (0.33333333 + u * (0.25 + u * (0.2 + u * 0.16666667)))))
    exponential = tl.where(u < 0.0625, series, _log2(1 - u, PTX) * -_LN2)
    return _log2(exponential, PTX) * -_LN2
