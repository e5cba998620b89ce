"""Paged attention in Triton against its twin."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mosso.kernels.gpu import attention

from .conftest import close

PAGE = 16
WINDOW = 128


class Case:
    """Rows of several lengths over shuffled pages. What no query may see is NaN."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        contexts: list[int],
        *,
        heads: int = 8,
        kv_heads: int = 2,
        dim: int = 32,
        window: int | None = None,
        pool_dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        logical = -(-max(contexts) // PAGE) + 1
        total = len(contexts) * logical + 1  # the last page is poison
        order = torch.randperm(total - 1, generator=generator)
        self.pages = order.view(len(contexts), logical).int()
        pool = torch.randn(2, kv_heads, total, PAGE, dim, generator=generator)
        pool[:, :, -1] = float("nan")
        for row, context in enumerate(contexts):
            first = 0 if window is None else max(0, context - window)
            self.pages[row, -(-context // PAGE) :] = total - 1
            if window is not None:
                self.pages[row, : first // PAGE] = total - 1
        self.pool = pool.to(pool_dtype or dtype).to(device)
        self.pages = self.pages.to(device)
        self.contexts = torch.tensor(contexts, dtype=torch.int32, device=device)
        self.sinks = torch.randn(heads, generator=generator).to(device)
        self.window = window
        self.shape = (heads, dim)
        self.dtype, self.device, self.generator = dtype, device, generator

    def queries(self, tokens: int) -> torch.Tensor:
        """[tokens, heads, dim] as a part of wider rows."""
        heads, dim = self.shape
        wide = torch.randn(tokens, (heads + 3) * dim, generator=self.generator).to(self.device, self.dtype)
        return wide[:, : heads * dim].unflatten(1, (heads, dim))


def contexts() -> list[int]:
    short = [1, 15, 16, 17, 127, 128, 129, 300]
    return [*short, 4097, 20_000, 131_072] if torch.cuda.is_available() else short


def sizes() -> dict[str, int]:
    return {"heads": 64, "kv_heads": 8, "dim": 64} if torch.cuda.is_available() else {}


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("splits", [None, 1, 3, 8])
def test_decode_is_its_twin(
    device: torch.device, dtype: torch.dtype, window: int | None, splits: int | None
) -> None:
    case = Case(device, dtype, contexts(), window=window, **sizes())
    rows = torch.randperm(len(case.contexts), generator=case.generator).int().to(device)
    positions = case.contexts[rows.long()] - 1
    q = case.queries(len(rows))
    arguments = (q, case.pool, case.pages, rows, positions, case.sinks, window)
    want = attention.decode_attention_twin(*arguments)
    for _ in range(2):  # the tickets are left as they were found
        close(attention.decode_attention(*arguments, splits=splits), want, worst=2e-2, rms=1e-2)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_prefill_is_its_twin(device: torch.device, dtype: torch.dtype, window: int | None) -> None:
    contexts = [5, 150, 300] if device.type == "cpu" else [5, 150, 300, 5000, 20_000]
    counts = [5, 20, 140] if device.type == "cpu" else [5, 20, 300, 4097, 1000]
    case = Case(device, dtype, contexts, **sizes())
    starts = torch.tensor([0, *counts], dtype=torch.int32, device=device).cumsum(0).int()
    span_rows = torch.arange(len(counts), dtype=torch.int32, device=device)
    q = case.queries(sum(counts))
    arguments = (q, case.pool, case.pages, span_rows, starts, case.contexts, case.sinks, window)
    want = attention.prefill_attention_twin(*arguments, max_query=max(counts))
    got = attention.prefill_attention(*arguments, max_query=max(counts))
    close(got, want, worst=2e-2, rms=1e-2)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_bits_do_not_hang_on_the_chunks(device: torch.device, dtype: torch.dtype, window: int | None) -> None:
    length = 200 if device.type == "cpu" else 3000
    case = Case(device, dtype, [length], **sizes())
    q = case.queries(length)

    def run(first: int, last: int) -> torch.Tensor:
        spans = torch.tensor([0, last - first, last], dtype=torch.int32, device=device)
        return attention.prefill_attention(
            q[first:last],
            case.pool,
            case.pages,
            spans[:1],
            spans[:2],
            spans[2:],
            case.sinks,
            window,
            max_query=last - first,
            deterministic=True,
        )

    whole = run(0, length)
    cuts = [0, 1, 70, 71, 135, length - 1, length]
    assert torch.equal(whole, torch.cat([run(*pair) for pair in pairwise(cuts)]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the interpreter has no 8-bit floats")
@pytest.mark.parametrize("window", [None, WINDOW])
def test_keys_and_values_of_eight_bits(device: torch.device, dtype: torch.dtype, window: int | None) -> None:
    case = Case(device, dtype, [1, 300, 5000], pool_dtype=torch.float8_e4m3fn, **sizes())
    rows = torch.arange(3, dtype=torch.int32, device=device)
    arguments = (case.queries(3), case.pool, case.pages, rows, case.contexts - 1, case.sinks, window)
    want = attention.decode_attention_twin(*arguments)
    close(attention.decode_attention(*arguments), want, worst=2e-2, rms=1e-2)
