"""Products of few tokens, the router, norms and rotation, at the shapes of gpt-oss.

A run of the products goes through the weights of 24 layers, so that none of them is found in the L2 cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch

from mosso.bench.floor import rates_here
from mosso.bench.kernels.case import Case
from mosso.kernels.gpu import linear, norm, rope, router
from mosso.kernels.gpu.linear import Tiling, linear_small, qkv_small

BANDWIDTH = rates_here().bandwidth  # bytes read in a second
LAYERS = 24
HIDDEN, HEADS, KV, DIM, TOP, PAGE = 2880, 64, 8, 64, 4, 16
QKV = (HEADS + 2 * KV) * DIM
EPS = 1e-5
PAGES = 4096
CONTEXT = 4096
COLD = 100_000_000  # bytes of weights that a run must go through to find none of them in the cache


@dataclass(frozen=True, slots=True)
class Weights:
    qkv: list[torch.Tensor]
    out: list[torch.Tensor]
    qkv_bias: torch.Tensor
    out_bias: torch.Tensor
    gain: torch.Tensor
    pool: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor


def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def weights() -> Weights:
    return Weights(
        qkv=[draw(QKV, HIDDEN) / 50 for _ in range(LAYERS)],
        out=[draw(HIDDEN, HEADS * DIM) / 50 for _ in range(LAYERS)],
        qkv_bias=draw(QKV),
        out_bias=draw(HIDDEN),
        gain=draw(HIDDEN, dtype=torch.float32),
        pool=draw(2, KV, PAGES, PAGE, DIM),
        cos=draw(CONTEXT, DIM // 2, dtype=torch.float32),
        sin=draw(CONTEXT, DIM // 2, dtype=torch.float32),
    )


def places(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, positions and page table of tokens each in its own row, or of one long prompt."""
    count = min(tokens, CONTEXT)
    every = torch.arange(tokens, device="cuda", dtype=torch.int32)
    pages = torch.randperm(PAGES, device="cuda").int()
    if tokens <= 64:
        return every, torch.full_like(every, 5), pages[: count * 4].reshape(count, 4)
    return every // CONTEXT, every % CONTEXT, pages[: CONTEXT // PAGE * 4].reshape(4, -1)


def qkv_case(w: Weights, tokens: int, cut: Tiling | None = None) -> Case:
    """The fused kernel where there is one; above that, norm and product."""
    x, where, fused = draw(tokens, HIDDEN, dtype=torch.float32), places(tokens), (w.gain, EPS)
    size = LAYERS * QKV * HIDDEN * 2

    def whole() -> object:
        return [
            qkv_small(x, fused, weight, w.qkv_bias, w.cos, w.sin, *where, w.pool, config=cut)
            for weight in w.qkv
        ]

    def plain() -> object:
        return [linear_small(x, weight, w.qkv_bias, norm=fused, config=cut) for weight in w.qkv]

    if tokens <= linear.MOST_QKV_TOKENS:
        return Case(f"qkv_small T={tokens}{label(cut)}", size / BANDWIDTH, whole)
    return Case(f"linear_small norm qkv T={tokens}{label(cut)}", size / BANDWIDTH, plain)


def out_case(w: Weights, tokens: int, cut: Tiling | None = None) -> Case:
    x, residual = draw(tokens, HEADS * DIM), draw(tokens, HIDDEN, dtype=torch.float32)

    def run() -> object:
        return [linear_small(x, weight, w.out_bias, residual=residual, config=cut) for weight in w.out]

    size = LAYERS * HIDDEN * HEADS * DIM * 2
    return Case(f"linear_small residual out T={tokens}{label(cut)}", size / BANDWIDTH, run)


def label(cut: Tiling | router.Tiling | None) -> str:
    if cut is None:
        return ""
    return " " + " ".join(f"{name}={getattr(cut, name)}" for name in cut.__slots__)


def route_case(w: Weights, tokens: int, experts: int, cut: router.Tiling | None = None) -> Case:
    """Over as many routers as make them cold, or over four of them where the tokens do."""
    size = experts * HIDDEN * 2 + tokens * HIDDEN * 6
    sets = max(4, COLD // size)
    routers, bias = draw(sets, experts, HIDDEN) / 50, draw(experts)
    x = draw(tokens, HIDDEN, dtype=torch.float32)
    active = torch.tensor([tokens], dtype=torch.int32, device="cuda")

    def run() -> object:
        for weight in routers:
            result = router.route(x, weight, bias, TOP, active, norm=(w.gain, EPS), config=cut)
        return result

    name = f"route E={experts} T={tokens} ({sets} times){label(cut)}"
    return Case(name, sets * size / BANDWIDTH, run)


def stream_cases(w: Weights, tokens: int) -> Iterator[Case]:
    """What is bound by the read and write of the stream."""
    x, delta = draw(tokens, HIDDEN, dtype=torch.float32), draw(tokens, HIDDEN)
    parts, qkv, where = draw(tokens, TOP, HIDDEN), draw(tokens, QKV), places(tokens)
    embedding = draw(50_000, HIDDEN)
    table = torch.randint(0, 50_000, (4, CONTEXT), dtype=torch.int32, device="cuda")
    cases: list[tuple[str, int, Callable[[], object]]] = [
        ("embed", HIDDEN * 6, lambda: norm.embed(table, where[0] % 4, where[1], embedding)),
        ("rms_norm", HIDDEN * 6, lambda: norm.rms_norm(x, w.gain, EPS, torch.bfloat16)),
        ("add_rms_norm", HIDDEN * 12, lambda: norm.add_rms_norm(x, delta, w.gain, EPS)),
        ("combine", HIDDEN * (8 + 2 * TOP), lambda: norm.combine(x, parts)),
        (
            "combine_rms_norm",
            HIDDEN * (10 + 2 * TOP),
            lambda: norm.combine_rms_norm(x, parts, w.gain, EPS, torch.bfloat16),
        ),
        (
            "rotate_and_store",
            (2 * HEADS + 4 * KV) * DIM * 2,
            lambda: rope.rotate_and_store(qkv, w.cos, w.sin, *where, w.pool),
        ),
    ]
    for name, size, run in cases:
        yield Case(f"{name} T={tokens}", tokens * size / BANDWIDTH, run)


def cases() -> Iterator[Case]:
    w = weights()
    for tokens in (1, 2, 4, 8, 16, 32, 64):
        yield qkv_case(w, tokens)
        yield out_case(w, tokens)
    for experts, tokens in product((32, 128), (1, 64, 512, 8192)):
        yield route_case(w, tokens, experts)
    for tokens in (1, 8192):
        yield from stream_cases(w, tokens)


def sweep() -> Iterator[Case]:
    """Choices of the products and the router; the best ones belong in the modules' `tiling`."""
    w = weights()
    for tokens in (1, 2):
        for rows, warps in ((2, 1), (2, 2), (4, 2), (2, 4), (4, 4), (8, 4), (8, 8), (4, 8)):
            cut = Tiling(dot=False, rows=rows, depth=256 * warps, warps=warps)
            yield from (qkv_case(w, tokens, cut), out_case(w, tokens, cut))
    for rows, warps in ((2, 4), (2, 8), (4, 8)):
        cut = Tiling(dot=False, rows=rows, depth=256 * warps, warps=warps)
        yield from (qkv_case(w, 4, cut), out_case(w, 4, cut))
    dot = functools.partial(Tiling, dot=True)
    few = [
        dot(rows=16, depth=64, warps=1, stages=6),
        dot(rows=16, depth=128, warps=1, stages=3),
        dot(rows=16, depth=128, warps=1, stages=4),
        dot(rows=16, depth=256, warps=1, stages=3),
        dot(rows=16, depth=256, warps=1, stages=4),
        dot(rows=16, depth=256, warps=2, stages=3),
        dot(rows=16, depth=128, warps=1, stages=4, splits=2),
        dot(rows=32, depth=64, warps=2, stages=5),
        dot(rows=32, depth=128, warps=2, stages=4),
        dot(rows=32, depth=128, warps=4, stages=4),
        dot(rows=32, depth=128, warps=2, stages=4, splits=2),
        dot(rows=64, depth=64, warps=4, stages=5, splits=3),
    ]
    for tokens, cut in product((2, 4, 8, 16), few):
        yield qkv_case(w, tokens, cut)
        apart = Tiling(cut.dot, cut.rows, cut.depth, cut.warps, cut.splits, cut.stages, fused_norm=False)
        if tokens > 2:
            yield qkv_case(w, tokens, apart)
        yield out_case(w, tokens, cut)
    many = [
        dot(rows=rows, depth=depth, warps=4, stages=stages, splits=splits, fused_norm=False)
        for rows, depth, stages in ((32, 128, 4), (64, 64, 5), (64, 128, 3), (128, 64, 4))
        for splits in (1, 2, 3, 4, 6)
    ]
    for cut in many:
        yield from (qkv_case(w, 64, cut), out_case(w, 64, cut))
    for experts, tokens in product((32, 128), (1, 16)):
        for share, warps in ((1, 1), (1, 2), (2, 2), (4, 4)):
            spread = router.Tiling(tokens=1, experts=share, depth=256 * warps, warps=warps)
            yield route_case(w, tokens, experts, spread)
