"""The expert layer's two products at the shapes of gpt-oss, each token with four experts drawn at random.

Where tokens are few, a run goes through several layers' experts, so that starting it costs little of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from math import inf
from typing import Any

import torch

from mosso.bench.floor import rates_here
from mosso.bench.kernels.case import Case
from mosso.kernels.gpu import moe, moe_hopper
from mosso.kernels.gpu.moe import GpuExperts, Tile
from mosso.kernels.gpu.moe_hopper import TUNINGS, Tuning
from mosso.kernels.gpu.mxfp4_layout import CHUNK, ROWS
from mosso.kernels.gpu.router import Routing

BANDWIDTH = rates_here().bandwidth  # bytes read in a second
ARITHMETIC = rates_here().operations or inf  # of bfloat16 products in a second
HIDDEN, INNER, TOP = 2880, 2880, 4
LIMIT = 7.0
MXFP4_BYTES = 17 / 32
LAYERS = {32: 6, 128: 2}  # by experts: 2.5 and 3.4 GB
MANY = 2048  # tokens from which one layer's run is long enough
WORD_SETS = 16  # random words are drawn for so many experts and repeated: what they say does not matter
SCALE_STRIDE = -(-(HIDDEN // CHUNK) // 16) * 16


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers of `count` experts, and a routing of the same tokens for each."""

    count: int
    experts: list[GpuExperts]


def layers(count: int) -> Layers:
    return Layers(count, [random_experts(count) for _ in range(LAYERS[count])])


def random_experts(count: int) -> GpuExperts:
    def words(rows: int) -> torch.Tensor:
        shape = min(count, WORD_SETS), rows // ROWS, HIDDEN // CHUNK, ROWS, 16
        drawn = torch.randint(-(2**15), 2**15, shape, device="cuda", dtype=torch.int16)
        return drawn.repeat(count // shape[0], 1, 1, 1, 1)

    def scales(rows: int) -> torch.Tensor:
        """Two bytes a word: factors near 2⁻⁸, with the layout's own offset."""
        both = torch.randint(244, 247, (count, rows, SCALE_STRIDE), device="cuda", dtype=torch.int32) * 257
        return both.to(torch.int16)

    def bias(rows: int) -> torch.Tensor:
        return torch.randn(count, rows, device="cuda", dtype=torch.bfloat16)

    return GpuExperts(
        words(2 * INNER), scales(2 * INNER), bias(2 * INNER), words(HIDDEN), scales(HIDDEN), bias(HIDDEN)
    )


def random_routing(tokens: int, count: int) -> Routing:
    shares, chosen = torch.rand(tokens, count, device="cuda").topk(TOP)
    flat = chosen.flatten()
    counts = torch.bincount(flat, minlength=count)
    order = flat.argsort(stable=True).int()
    ends = [0, *counts.cumsum(0).tolist()]
    lists = torch.zeros(count, tokens, dtype=torch.int32, device="cuda")
    for expert, (first, end) in enumerate(pairwise(ends)):
        lists[expert, : end - first] = order[first:end]
    normed = torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
    return Routing(chosen.int(), shares.softmax(-1), counts.int(), lists, normed)


Cut = Tile | Tuning | None  # of Triton's kernel, of the one in CUDA C++, or the wrapper's own choice


def product_case(held: Layers, tokens: int, kind: str, cut: Cut = None) -> Case:
    """`kind`: gate_up, with SwiGLU, or down, with the token's shares."""
    kernels: Any = moe_hopper if isinstance(cut, Tuning) else moe
    chosen = held.experts[: 1 if tokens >= MANY else None]
    routings = [random_routing(tokens, held.count) for _ in chosen]
    act = torch.randn(tokens * TOP, INNER, device="cuda", dtype=torch.bfloat16) / 10
    pairs = list(zip(chosen, routings, strict=True))

    def gate_up() -> object:
        return [kernels.gate_up(routing.normed, experts, routing, LIMIT, cut) for experts, routing in pairs]

    def down() -> object:
        return [kernels.down(act, experts, routing, None, cut) for experts, routing in pairs]

    rows = 2 * INNER if kind == "gate_up" else HIDDEN
    floor = sum(product_floor(routing, tokens, rows) for routing in routings)
    name = f"{kind} E={held.count} T={tokens} ({len(pairs)} times){label(cut)}"
    return Case(name, floor, gate_up if kind == "gate_up" else down)


def product_floor(routing: Routing, tokens: int, rows: int) -> float:
    """Weights of the experts that were chosen, read once, or the products of all pairs."""
    touched = int((routing.counts > 0).sum())
    read = touched * rows * HIDDEN * MXFP4_BYTES + tokens * TOP * (HIDDEN + INNER) * 2
    return max(read / BANDWIDTH, 2 * tokens * TOP * rows * HIDDEN / ARITHMETIC)


def label(cut: Cut) -> str:
    if cut is None:
        return ""
    return " " + " ".join(f"{name}={value}" for name, value in asdict(cut).items())


def cases() -> Iterator[Case]:
    for count in LAYERS:
        held = layers(count)
        for tokens, kind in product((1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 8192), ("gate_up", "down")):
            yield product_case(held, tokens, kind)
        del held


def sweep() -> Iterator[Case]:
    """Choices of tiles; the best ones belong in the kernels' `gate_up_tile` and `down_tile`.

    On Hopper also the tunings of the kernel in CUDA C++, which belong in moe_hopper.
    """
    one = [
        Tile(rows, 8, chunks, warps, stages)
        for rows, chunks, warps, stages in (
            (16, 5, 1, 3), (16, 9, 1, 3), (32, 5, 1, 3), (32, 5, 2, 3), (32, 9, 2, 3), (64, 3, 4, 3),
            (64, 5, 2, 3), (64, 5, 4, 2), (64, 5, 4, 3), (64, 9, 4, 2), (64, 15, 4, 2),
        )
    ]  # fmt: skip
    shared = [Tile(64, 8, 5, 4, stages, splits) for stages, splits in ((2, 3), (3, 3), (2, 5), (3, 5))]
    few = [
        Tile(rows, pairs, chunks, warps, stages)
        for rows, pairs, chunks, warps, stages in (
            (64, 8, 5, 2, 3), (64, 8, 5, 4, 3), (64, 16, 5, 2, 3), (64, 16, 5, 4, 3), (64, 32, 5, 4, 3),
            (128, 16, 5, 4, 3), (128, 16, 5, 8, 3), (128, 16, 3, 8, 4), (128, 32, 5, 8, 2),
            (128, 32, 3, 8, 3), (128, 64, 3, 8, 3),
        )
    ]  # fmt: skip
    many = [
        Tile(rows, pairs, chunks, warps, stages)
        for rows, pairs, chunks, warps, stages in (
            (128, 64, 3, 8, 3), (128, 128, 1, 4, 3), (128, 128, 1, 4, 4), (128, 128, 1, 8, 3),
            (128, 128, 1, 8, 4), (128, 128, 3, 8, 2), (256, 64, 1, 8, 3), (256, 128, 1, 8, 3),
            (128, 256, 1, 8, 3),
        )
    ]  # fmt: skip
    tuned = [*TUNINGS, Tuning(96, 3, 3, 3)] if moe_hopper.runs(torch.device("cuda")) else []
    middle: list[Cut] = [*few, *tuned]
    plan: tuple[tuple[int, Sequence[Cut], Sequence[Cut]], ...] = (
        (1, one, one + shared), (8, few, few), (64, middle, middle), (256, middle, middle),
        (512, [*middle, *many], [*many, *tuned]), (8192, many, many),
    )  # fmt: skip
    for count in LAYERS:
        held = layers(count)
        for tokens, wide, narrow in plan:
            for cut in wide:
                yield product_case(held, tokens, "gate_up", cut)
            for cut in narrow:
                yield product_case(held, tokens, "down", cut)
        del held
