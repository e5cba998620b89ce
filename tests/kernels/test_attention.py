"""Attention against loops over queries and keys in float64; paged against dense, over poisoned memory."""

from __future__ import annotations

import math

import pytest
import torch

from mosso.kernels import attention as module
from mosso.kernels.attention import attention, paged_attention
from mosso.kernels.cache import write_kv

H, KV, D = 4, 2, 8


def naive(q, k, v, sinks, window):
    out = torch.zeros(q.shape, dtype=torch.float64)
    for t in range(q.shape[0]):
        first = 0 if window is None else max(0, t - window + 1)
        for h in range(H):
            g = h // (H // KV)
            scores = [
                (q[t, h].double() @ k[s, g].double()).item() / math.sqrt(D) for s in range(first, t + 1)
            ]
            total = sum(math.exp(score) for score in scores) + math.exp(sinks[h].item())
            for s, score in zip(range(first, t + 1), scores, strict=True):
                out[t, h] += math.exp(score) / total * v[s, g].double()
    return out


@pytest.mark.parametrize("window", [None, 1, 4, 100])
def test_attention(random, window):
    q, k, v, sinks = random(11, H, D), random(11, KV, D), random(11, KV, D), random(H)
    got = attention(q, k, v, sinks, window)
    assert (got - naive(q, k, v, sinks, window)).abs().max() < 1e-5


def test_leading_batch_axes(random):
    q, k, v, sinks = random(3, 7, H, D), random(3, 7, KV, D), random(3, 7, KV, D), random(H)
    got = attention(q, k, v, sinks, 3)
    for index in range(3):
        assert torch.allclose(got[index], attention(q[index], k[index], v[index], sinks, 3), atol=1e-6)


def test_a_heavy_sink_silences_a_head(random):
    q, k, v = random(3, H, D), random(3, KV, D), random(3, KV, D)
    sinks = torch.tensor([1e4, 0.0, 0.0, 0.0])
    got = attention(q, k, v, sinks, None)
    assert (got[:, 0] == 0).all()
    assert (got[:, 1:] != 0).all()


def test_write_kv_puts_each_token_into_its_slot(random):
    pool = torch.full((2, KV, 5, 4, D), torch.nan)
    kv = random(3, 2, KV, D)
    write_kv(pool, torch.tensor([7, 0, 18]), kv)
    assert torch.equal(pool[:, :, 1, 3], kv[0])
    assert torch.equal(pool[:, :, 0, 0], kv[1])
    assert torch.equal(pool[:, :, 4, 2], kv[2])
    assert pool.isnan().sum() == pool.numel() - kv.numel()


@pytest.mark.parametrize("window", [None, 1, 5, 9])
@pytest.mark.parametrize("max_scores", [1 << 24, 200])
def test_paged_attention_reads_only_what_it_may(random, window, max_scores, monkeypatch):
    """Rows of all kinds over shuffled pages; whatever no query may see is NaN, in memory and as page ids."""
    monkeypatch.setattr(module, "MAX_SCORES", max_scores)
    page, counts, contexts = 4, (1, 6, 1, 13), (1, 17, 23, 13)
    sequences = [(random(n, H, D), random(n, KV, D), random(n, KV, D)) for n in contexts]
    sinks = random(H)
    logical = -(-max(contexts) // page)
    pages = torch.randperm(4 * logical, generator=torch.Generator().manual_seed(3)).view(4, logical).int()
    pool = torch.full((2, KV, 4 * logical, page, D), torch.nan)
    for row, (_, k, v) in enumerate(sequences):
        oldest = 0 if window is None else max(0, contexts[row] - counts[row] - window + 1)
        first = oldest // page * page  # a page's content is all there or all stale
        positions = torch.arange(first, contexts[row])
        slots = pages[row, positions // page].long() * page + positions % page
        write_kv(pool, slots, torch.stack((k, v), dim=1)[first:])
        pages[row, : first // page] = 10**6  # a stale id, out of any pool
    q = torch.cat([q[-count:] for (q, _, _), count in zip(sequences, counts, strict=True)])
    starts = torch.tensor([0, *counts]).cumsum(0).int()
    got = paged_attention(q, pool, pages, sinks, starts, torch.tensor(contexts).int(), window)
    expected = [naive(*s, sinks, window)[-c:] for s, c in zip(sequences, counts, strict=True)]
    assert (got - torch.cat(expected)).abs().max() < 1e-5
