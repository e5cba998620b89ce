"""gpt-oss, plainly: what the model computes, without a cache and without haste.

Every faster path in this package is held to this file. A token's embedding runs through the layers as one
vector, the residual stream; each layer adds attention's answer to it, then the experts' answer. The last
vector, normalised, is compared with every row of the head: those are the logits of the next token.
"""

from __future__ import annotations

import torch

from mosso.core.config import ModelConfig
from mosso.kernels.attention import attention
from mosso.kernels.experts import moe
from mosso.kernels.linear import embed, head, linear
from mosso.kernels.norm import rms_norm
from mosso.kernels.rope import apply_rope, rope_tables
from mosso.model.weights import LayerWeights, Weights

Tables = tuple[torch.Tensor, torch.Tensor]


def logits(weights: Weights, config: ModelConfig, tokens: torch.Tensor) -> torch.Tensor:
    """tokens int64 [..., T], each sequence from position 0 → float32 [..., T, V]."""
    positions = torch.arange(tokens.shape[-1], device=tokens.device)
    tables = rope_tables(config.rope, config.head_dim, positions)
    x = embed(tokens, weights.embedding, weights.dtype)
    for layer, sliding in zip(weights.layers, config.sliding, strict=True):
        window = config.window if sliding else None
        x = x + attention_block(x, layer, config, tables, window)
        x = x + expert_block(x, layer, config)
    return head(rms_norm(x, weights.norm, config.rms_norm_eps), weights.head)


def attention_block(
    x: torch.Tensor, layer: LayerWeights, config: ModelConfig, tables: Tables, window: int | None
) -> torch.Tensor:
    """What attention adds to x [..., T, hidden]: each token gathers from the tokens before it."""
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    normed = rms_norm(x, layer.attention_norm, config.rms_norm_eps)
    qkv = linear(normed, layer.qkv, layer.qkv_bias).unflatten(-1, (heads + 2 * kv_heads, dim))
    q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=-2)
    q, k = apply_rope(q, *tables), apply_rope(k, *tables)
    gathered = attention(q, k, v, layer.sinks, window)
    return linear(gathered.flatten(-2), layer.out, layer.out_bias)


def expert_block(x: torch.Tensor, layer: LayerWeights, config: ModelConfig) -> torch.Tensor:
    """What the experts add to x [..., T, hidden]: each token goes through the few that its router chose."""
    normed = rms_norm(x, layer.mlp_norm, config.rms_norm_eps).flatten(0, -2)
    mixed = moe(
        normed, layer.router, layer.router_bias, layer.experts, config.experts_per_token, config.swiglu_limit
    )
    return mixed.view_as(x)
