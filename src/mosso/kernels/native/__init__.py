"""The operations in C for CPUs: float32 arithmetic over weights of float32, bfloat16 or MXFP4.

Every function has the signature of its torch twin and computes the same thing, with one promise more: a row's
result is the same to the bit whatever rows are computed beside it, and on however many threads. The library
releases the interpreter lock while it works, on as many threads as torch would use.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p

import torch

from mosso.kernels import attention, cache
from mosso.kernels.experts import Experts, PackedExperts
from mosso.kernels.native.build import load

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.uint8: 2}
_LANES = 16
_MAX_HEAD_DIM = 512
_ARGUMENTS = {  # p: pointer, n: length or stride, i: int, f: float
    "mosso_rms_norm": "ippnnfp",
    "mosso_linear": "ipnnipnpp",
    "mosso_rotate_and_store": "ippppnnnnpipn",
    "mosso_paged_attention": "ipnnnnipnnpnppnpnp",
    "mosso_mix": "ipnppninnnppppppfp",
    "mosso_draw": "ipnnppp",
    "mosso_restrict": "ipnppnn",
}
_NEVER_FAIL = ("mosso_rms_norm", "mosso_rotate_and_store", "mosso_draw", "mosso_restrict")
_KINDS = {"p": c_void_p, "n": c_int64, "i": c_int, "f": c_float}


def unavailable() -> str | None:
    """Why there are no native kernels here, in a sentence; None when there are."""
    found = load()
    return found if isinstance(found, str) else None


def _call(name: str, *arguments: float | None) -> None:
    """Runs a function of the library; its first argument, the threads, is added. Raises MemoryError."""
    library = load()
    assert isinstance(library, ctypes.CDLL), library
    function = getattr(library, name)
    if function.argtypes is None:
        function.argtypes = [_KINDS[letter] for letter in _ARGUMENTS[name]]
        function.restype = None if name in _NEVER_FAIL else c_int
    if function(torch.get_num_threads(), *arguments):
        raise MemoryError(f"{name} found no memory")


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x, out = x.contiguous(), torch.empty(x.shape)
    columns = x.shape[-1]
    _call(
        "mosso_rms_norm", x.data_ptr(), weight.data_ptr(), x.numel() // columns, columns, eps, out.data_ptr()
    )
    return out


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    rows, columns = x.shape
    out = torch.empty(rows, weight.shape[0])
    _call(
        "mosso_linear",
        x.data_ptr(),
        rows,
        columns,
        _TYPES[weight.dtype],
        weight.data_ptr(),
        weight.shape[0],
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
    )
    return out


def rotate_and_store(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, pool: torch.Tensor, slots: torch.Tensor
) -> torch.Tensor:
    _, kv_heads, pages, page_size, dim = pool.shape
    if dim > _MAX_HEAD_DIM:
        return cache.rotate_and_store(qkv, cos, sin, pool, slots)
    qkv = qkv.contiguous()  # by name: the memory must live until the call returns
    rows, all_heads, _ = qkv.shape
    heads = all_heads - 2 * kv_heads
    q = torch.empty(rows, heads, dim)
    _call(
        "mosso_rotate_and_store",
        qkv.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        slots.data_ptr(),
        rows,
        heads,
        kv_heads,
        dim,
        q.data_ptr(),
        _TYPES[pool.dtype],
        pool.data_ptr(),
        pages * page_size,
    )
    return q


def paged_attention(
    q: torch.Tensor,
    pool: torch.Tensor,
    pages: torch.Tensor,
    sinks: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    window: int | None,
) -> torch.Tensor:
    tokens, heads, dim = q.shape
    if dim % _LANES:
        return attention.paged_attention(q, pool, pages, sinks, query_starts, context_lens, window)
    q, out = q.contiguous(), torch.empty(tokens, heads, dim)
    _call(
        "mosso_paged_attention",
        q.data_ptr(),
        tokens,
        heads,
        pool.shape[1],
        dim,
        _TYPES[pool.dtype],
        pool.data_ptr(),
        pool.shape[2],
        pool.shape[3],
        pages.data_ptr(),
        pages.stride(0),
        query_starts.data_ptr(),
        context_lens.data_ptr(),
        context_lens.shape[0],
        sinks.data_ptr(),
        window or 0,
        out.data_ptr(),
    )
    return out


def moe(
    x: torch.Tensor,
    router: torch.Tensor,
    router_bias: torch.Tensor,
    experts: Experts,
    top_k: int,
    limit: float,
) -> torch.Tensor:
    logits, chosen = linear(x, router, router_bias).topk(top_k, dim=-1)
    return mix(x, chosen, logits.softmax(-1), experts, limit)


def mix(
    x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor, experts: Experts, limit: float
) -> torch.Tensor:
    x, chosen, shares = x.contiguous(), chosen.contiguous(), shares.contiguous()
    if isinstance(experts, PackedExperts):
        gate_up, gate_up_scales = experts.gate_up_blocks, experts.gate_up_scales.data_ptr()
        down, down_scales = experts.down_blocks, experts.down_scales.data_ptr()
    else:
        gate_up, down, gate_up_scales, down_scales = experts.gate_up, experts.down, None, None
    out = torch.empty(x.shape)
    _call(
        "mosso_mix",
        x.data_ptr(),
        x.shape[0],
        chosen.data_ptr(),
        shares.data_ptr(),
        chosen.shape[1],
        _TYPES[gate_up.dtype],
        gate_up.shape[0],
        x.shape[1],
        gate_up.shape[1] // 2,
        gate_up.data_ptr(),
        gate_up_scales,
        experts.gate_up_bias.data_ptr(),
        down.data_ptr(),
        down_scales,
        experts.down_bias.data_ptr(),
        limit,
        out.data_ptr(),
    )
    return out


def draw(logits: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    logits, seeds, positions = logits.contiguous(), seeds.contiguous(), positions.contiguous()
    rows, vocab = logits.shape
    out = torch.empty(rows, dtype=torch.int64)
    _call(
        "mosso_draw",
        logits.data_ptr(),
        rows,
        vocab,
        seeds.data_ptr(),
        positions.data_ptr(),
        out.data_ptr(),
    )
    return out


def restrict(logits: torch.Tensor, at: torch.Tensor, masks: torch.Tensor) -> None:
    assert logits.is_contiguous()
    at, masks = at.contiguous(), masks.contiguous()
    rows, words = masks.shape
    assert words * 32 >= logits.shape[1]
    _call("mosso_restrict", logits.data_ptr(), logits.shape[1], at.data_ptr(), masks.data_ptr(), rows, words)
