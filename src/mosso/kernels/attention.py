"""Attention with sinks: each head's learned sink logit joins the softmax and has no value.

Query heads are grouped: H query heads share KV key/value heads, head h reads key/value head h // (H / KV).
Scores are scaled by 1/√D. A sliding layer's query at position q sees keys q - window + 1 .. q.
"""

from __future__ import annotations

from itertools import pairwise

import torch

MAX_SCORES = 1 << 24  # elements of one score matrix; longer chunks are cut into blocks of queries


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor, window: int | None
) -> torch.Tensor:
    """Causal attention of a whole sequence: q [..., T, H, D], k and v [..., T, KV, D] → [..., T, H, D]."""
    heads = _attend(q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3), sinks, window)
    return heads.transpose(-2, -3)


def paged_attention(
    q: torch.Tensor,
    pool: torch.Tensor,
    pages: torch.Tensor,
    sinks: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    window: int | None,
) -> torch.Tensor:
    """Attention of R rows over paged keys and values that already hold this step's positions.

    q [T, H, D]: row r owns tokens query_starts[r] .. query_starts[r + 1] - 1, the last ones of its
    context_lens[r] positions; int32 [R + 1] and [R].
    pool [2, KV, pages, page_size, D]: keys, then values. pages int32 [R, P]: logical page → page id.
    Returns [T, H, D]. Of a sliding layer only the pages that the window touches are read.
    """
    out = torch.empty_like(q)
    spans = pairwise(query_starts.tolist())
    for row, ((begin, end), context) in enumerate(zip(spans, context_lens.tolist(), strict=True)):
        block = max(1, MAX_SCORES // (q.shape[1] * context))
        for first in range(begin, end, block):
            last = min(first + block, end)
            stop = context - (end - last)  # positions that the last query of the block sees
            start = 0 if window is None else max(0, stop - (last - first) - window + 1)
            k, v = _gather(pool, pages[row], start, stop).to(q.dtype)
            heads = _attend(q[first:last].transpose(0, 1), k, v, sinks, window)
            out[first:last] = heads.transpose(0, 1)
    return out


def _gather(pool: torch.Tensor, pages: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Keys and values [2, KV, stop - start, D] of positions start .. stop - 1 of one row."""
    page_size = pool.shape[3]
    first = start // page_size
    held = pool.index_select(2, pages[first : (stop - 1) // page_size + 1]).flatten(2, 3)
    return held[:, :, start - first * page_size : stop - first * page_size]


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor, window: int | None
) -> torch.Tensor:
    """q [..., H, Q, D] are the last Q of the S positions of k and v [..., KV, S, D]; → [..., H, Q, D]."""
    *batch, heads, queries, dim = q.shape
    groups, keys = k.shape[-3], k.shape[-2]
    grouped = q.reshape(*batch, groups, heads // groups * queries, dim)
    scores = (grouped @ k.transpose(-1, -2)).float() * dim**-0.5
    scores = scores.view(*batch, heads, queries, keys)
    hidden = _hidden(queries, keys, window, q.device)
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    sink = sinks.float()[:, None, None].expand(*batch, heads, queries, 1)
    shares = torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1].to(q.dtype)
    mixed = shares.reshape(*batch, groups, heads // groups * queries, keys) @ v
    return mixed.view(*batch, heads, queries, dim)


def _hidden(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """True where a query must not look, [queries, keys]; None when each sees every key."""
    if queries == 1 and (window is None or keys <= window):
        return None
    distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    hidden = distance < 0
    return hidden if window is None else hidden | (distance >= window)
