"""Attention at the shapes of gpt-oss.

Decode is bound by the read of keys and values, prefill by the products. Where decode would find one layer's
entries in the L2 cache, a run goes through enough layers that it does not; its floor is that of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from math import inf

import torch

from mosso.bench.floor import rates_here
from mosso.bench.kernels.case import Case
from mosso.kernels.gpu import attention
from mosso.kernels.gpu.attention import DecodeTiling, PrefillTiling

BANDWIDTH = rates_here().bandwidth  # bytes read in a second
ARITHMETIC = rates_here().operations or inf  # of bfloat16 products in a second
HEADS, KV, DIM, PAGE, WINDOW = 64, 8, 64, 16, 128
ENTRY = 2 * KV * DIM * 2  # bytes of a position's keys and values
COLD = 150_000_000  # bytes that a run must go through to find none of them in the cache
ROOM = 8_000_000_000  # bytes that the layers of one case may take


@dataclass(frozen=True, slots=True)
class Batch:
    """Layers of rows of equal contexts, their pages in no order."""

    pools: list[torch.Tensor]
    pages: torch.Tensor
    sinks: torch.Tensor


def batch(rows: int, context: int, layers: int = 1) -> Batch:
    columns = -(-context // PAGE)
    shape = (2, KV, rows * columns, PAGE, DIM)
    pools = [torch.randn(*shape, device="cuda", dtype=torch.bfloat16) for _ in range(layers)]
    pages = torch.randperm(rows * columns, device="cuda").int().view(rows, columns)
    return Batch(pools, pages, torch.randn(HEADS, device="cuda"))


def cold_batch(tokens: int, context: int, window: int | None) -> Batch:
    """As many layers as make them cold, if there is room for them."""
    read = tokens * min(context, window or context) * ENTRY
    return batch(tokens, context, max(1, min(COLD // read, ROOM // (tokens * context * ENTRY))))


def queries(tokens: int) -> torch.Tensor:
    """Within rows that hold keys and values too."""
    wide = torch.randn(tokens, HEADS + 2 * KV, DIM, device="cuda", dtype=torch.bfloat16)
    return wide[:, :HEADS]


def decode_case(
    held: Batch, tokens: int, context: int, window: int | None,
    cut: DecodeTiling | None = None, splits: int | None = None,
) -> Case:  # fmt: skip
    q = queries(tokens)
    rows = torch.randperm(tokens, device="cuda").int()
    positions = torch.full((tokens,), context - 1, device="cuda", dtype=torch.int32)

    def run() -> object:
        for pool in held.pools:
            result = attention.decode_attention(
                q, pool, held.pages, rows, positions, held.sinks, window, splits=splits, config=cut
            )
        return result

    read = tokens * (min(context, window or context) * ENTRY + 2 * HEADS * DIM * 2)
    name = f"decode {kind(window)} T={tokens} context={context} ({len(held.pools)} times)"
    chosen = "" if splits is None else f" splits={splits}"
    return Case(name + chosen + label(cut), len(held.pools) * read / BANDWIDTH, run)


def prefill_case(
    held: Batch, spans: int, length: int, window: int | None, cut: PrefillTiling | None = None
) -> Case:
    """Prompts without a cached prefix; their entries are in the cache, as those just written are."""
    q, pool = queries(spans * length), held.pools[0]
    rows = torch.arange(spans, device="cuda", dtype=torch.int32)
    starts = torch.arange(spans + 1, device="cuda", dtype=torch.int32) * length
    lens = torch.full_like(rows, length)

    def run() -> object:
        return attention.prefill_attention(
            q, pool, held.pages, rows, starts, lens, held.sinks, window, max_query=length, config=cut
        )

    moved = spans * length * (ENTRY + 2 * HEADS * DIM * 2) / BANDWIDTH
    floor = max(moved, spans * 4 * HEADS * DIM * pairs(length, window) / ARITHMETIC)
    return Case(f"prefill {kind(window)} {spans}x{length}{label(cut)}", floor, run)


def pairs(length: int, window: int | None) -> int:
    """How many pairs of a query and a key that it sees a prompt has."""
    seen = min(length, window or length)
    return seen * (seen + 1) // 2 + (length - seen) * seen


def kind(window: int | None) -> str:
    return "full" if window is None else "window"


def label(cut: DecodeTiling | PrefillTiling | None) -> str:
    if cut is None:
        return ""
    return "".join(f" {field.name}={getattr(cut, field.name)}" for field in fields(cut))


DECODES = ((1, 1152), (8, 1152), (64, 1152), (512, 1152), (1, 131_072))
PREFILLS = ((8, 1024), (1, 8192), (1, 32_768))


def cases() -> Iterator[Case]:
    for (tokens, context), window in product(DECODES, (None, WINDOW)):
        yield decode_case(cold_batch(tokens, context, window), tokens, context, window)
    for (spans, length), window in product(PREFILLS, (None, WINDOW)):
        yield prefill_case(batch(spans, length), spans, length, window)


def sweep() -> Iterator[Case]:
    """Choices of tiles and splits; the best ones belong in the kernel's module."""
    yield from sweep_decode()
    yield from sweep_window()
    yield from sweep_prefill()


def sweep_decode() -> Iterator[Case]:
    cuts = [
        DecodeTiling(parts=4, keys=16, warps=4, stages=3),
        DecodeTiling(parts=4, keys=16, warps=4, stages=4),
        DecodeTiling(parts=2, keys=16, warps=2, stages=3),
        DecodeTiling(parts=2, keys=32, warps=2, stages=3),
        DecodeTiling(parts=4, keys=32, warps=4, stages=3),
        DecodeTiling(parts=8, keys=16, warps=4, stages=2),
        DecodeTiling(parts=8, keys=16, warps=8, stages=3),
        DecodeTiling(parts=1, keys=64, warps=1, stages=3),
    ]
    for tokens, context in DECODES:
        held = cold_batch(tokens, context, None)
        for cut in cuts:
            yield decode_case(held, tokens, context, None, cut)
        for splits in (1, 2, 4, 8, 16, 32, 64):
            if splits * tokens <= 512:
                yield decode_case(held, tokens, context, None, splits=splits)


def sweep_window() -> Iterator[Case]:
    cuts = [
        DecodeTiling(parts=8, keys=16, warps=8, stages=2),
        DecodeTiling(parts=8, keys=16, warps=4, stages=2),
        DecodeTiling(parts=4, keys=32, warps=4, stages=2),
        DecodeTiling(parts=4, keys=16, warps=4, stages=3),
        DecodeTiling(parts=2, keys=32, warps=2, stages=3),
    ]
    for tokens in (1, 8, 64, 512):
        held = cold_batch(tokens, 1152, WINDOW)
        for cut in cuts:
            yield decode_case(held, tokens, 1152, WINDOW, cut)


def sweep_prefill() -> Iterator[Case]:
    cuts = [
        PrefillTiling(block_m=64, block_n=64, warps=4, stages=3),
        PrefillTiling(block_m=64, block_n=128, warps=4, stages=2),
        PrefillTiling(block_m=64, block_n=128, warps=4, stages=3),
        PrefillTiling(block_m=128, block_n=64, warps=4, stages=3),
        PrefillTiling(block_m=128, block_n=64, warps=8, stages=3),
        PrefillTiling(block_m=128, block_n=128, warps=8, stages=2),
        PrefillTiling(block_m=128, block_n=128, warps=8, stages=3),
    ]
    for (spans, length), window in product(PREFILLS, (None, WINDOW)):
        held = batch(spans, length)
        for cut in cuts:
            yield prefill_case(held, spans, length, window, cut)
