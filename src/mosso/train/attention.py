"""Attention over packed rows: causal, inside one document, with sinks; two forms of the same function.

`dense` materialises the scores: the definition, and what runs on a CPU. `flex` compiles to a fused kernel
that skips the blocks no document touches (torch.nn.attention.flex_attention), for a GPU.

A sink is a logit that joins the softmax without a value. With l the log of the sum of exponentials over
the visible keys, softmax with the sink s equals softmax without it times exp(l) / (exp(l) + exp(s)) =
sigmoid(l - s).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention


class Masks(NamedTuple):
    """Who sees whom, for the two kinds of layer; opaque to everyone but the attention that made them."""

    sliding: Any
    full: Any


class AttentionForm(NamedTuple):
    """make_masks(documents int [B, S], window); attend(q [B,H,S,D], k and v [B,K,S,D], sinks [H], mask)."""

    make_masks: Callable[[torch.Tensor, int], Masks]
    attend: Callable[..., torch.Tensor]


def dense_masks(documents: torch.Tensor, window: int) -> Masks:
    """bool [B, 1, S, S], true where the query (third axis) sees the key (last axis)."""
    positions = torch.arange(documents.shape[1], device=documents.device)
    distance = positions[:, None] - positions[None, :]
    same = documents[:, :, None] == documents[:, None, :]
    full = (same & (distance >= 0))[:, None]
    return Masks(sliding=full & (distance < window), full=full)


def dense_attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """[B, H, S, D] in the dtype of `query`; the softmax is float32."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~mask, float("-inf"))
    sink = sinks.float()[None, :, None, None].expand(*scores.shape[:-1], 1)
    weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
    return weights.to(value.dtype) @ value


def flex_masks(documents: torch.Tensor, window: int) -> Masks:
    """Block masks of the same two rules."""
    batch, length = documents.shape

    def full(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (documents[b, q] == documents[b, k]) & (k <= q)

    def sliding(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return full(b, h, q, k) & (q - k < window)

    return Masks(
        *(create_block_mask(m, batch, None, length, length, documents.device) for m in (sliding, full))
    )


def flex_attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor, mask: Any
) -> torch.Tensor:
    """[B, H, S, D] in the dtype of `query`."""
    out, aux = flex_attention(
        query, key, value, block_mask=mask, enable_gqa=True, return_aux=AuxRequest(lse=True)
    )
    assert aux.lse is not None  # asked for
    keep = torch.sigmoid(aux.lse - sinks.float()[None, :, None])
    return (out.float() * keep[..., None]).to(query.dtype)


DENSE = AttentionForm(dense_masks, dense_attend)
FLEX = AttentionForm(flex_masks, flex_attend)
