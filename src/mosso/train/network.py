"""gpt-oss as a trainable module, written for training speed: every expert computes every token.

The arithmetic is that of `mosso.model.reference`. What differs is the order: all experts run as two large
matrix products, and the router's weight is zero where an expert was not chosen, which gives the same sum.

Parameters are float32 masters. The forward pass only ever sees what the export writes: bfloat16 roundings,
and MXFP4 roundings of the experts' matrices, both with straight-through gradients.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mosso.core.config import SWIGLU_ALPHA, ModelConfig, YarnRope
from mosso.kernels.mxfp4 import fake_quantize
from mosso.train.attention import DENSE, AttentionForm


def rope_tables(rope: YarnRope, head_dim: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 [length, head_dim / 2], of YaRN (arXiv 2309.00071), its concentration included."""
    half = head_dim // 2
    slots = torch.arange(half, dtype=torch.float64)
    frequencies = rope.theta ** (-slots / half)

    def slot_of(rotations: float) -> float:
        turns = rope.original_max_positions / (rotations * 2 * math.pi)
        return half * math.log(turns) / math.log(rope.theta)

    low, high = slot_of(rope.beta_fast), slot_of(rope.beta_slow)
    ramp = ((slots - low) / (high - low)).clamp(0, 1)
    inverse = frequencies / rope.factor * ramp + frequencies * (1 - ramp)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * inverse
    concentration = 0.1 * math.log(rope.factor) + 1.0
    return (angles.cos() * concentration).float(), (angles.sin() * concentration).float()


def stored(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The parameter as the bfloat16 file will hold it, in the dtype that computes."""
    return weight.bfloat16().to(dtype)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return F.linear(x.to(dtype), stored(weight, dtype), stored(bias, dtype))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Half-split rotary embedding of [..., S, D] in float32, given back in the dtype of x."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def _matrix(*shape: int, gain: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * gain * shape[-1] ** -0.5)


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return x * scale * stored(self.weight, torch.float32)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        width, kv_width, hidden = (
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            config.hidden_size,
        )
        self.q_weight, self.q_bias = _matrix(width, hidden), _zeros(width)
        self.k_weight, self.k_bias = _matrix(kv_width, hidden), _zeros(kv_width)
        self.v_weight, self.v_bias = _matrix(kv_width, hidden), _zeros(kv_width)
        self.o_weight = _matrix(hidden, width, gain=(2 * config.num_layers) ** -0.5)
        self.o_bias = _zeros(hidden)
        self.sinks = _zeros(self.heads)

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: object,
        form: AttentionForm,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """float32 [B, S, hidden] → the same."""

        def heads(count: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return linear(x, weight, bias, dtype).unflatten(-1, (count, self.head_dim)).transpose(1, 2)

        query = rotate(heads(self.heads, self.q_weight, self.q_bias), cos, sin)
        key = rotate(heads(self.kv_heads, self.k_weight, self.k_bias), cos, sin)
        value = heads(self.kv_heads, self.v_weight, self.v_bias)
        out = form.attend(query, key, value, stored(self.sinks, torch.float32), mask)
        return linear(out.transpose(1, 2).flatten(-2), self.o_weight, self.o_bias, dtype).float()


class Experts(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        count, hidden, inner = config.num_experts, config.hidden_size, config.intermediate_size
        self.count, self.top, self.limit = count, config.experts_per_token, config.swiglu_limit
        self.router_weight, self.router_bias = _matrix(count, hidden), _zeros(count)
        self.gate_up_weight, self.gate_up_bias = _matrix(count, 2 * inner, hidden), _zeros(count, 2 * inner)
        self.down_weight = _matrix(count, hidden, inner, gain=(2 * config.num_layers) ** -0.5)
        self.down_bias = _zeros(count, hidden)

    def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [T, hidden] → weights [T, E], zero where not chosen, and the load-balancing loss.

        The loss is that of Switch Transformers (arXiv 2101.03961, eq. 4): 1 when the load is even.
        """
        logits = F.linear(
            x, stored(self.router_weight, torch.float32), stored(self.router_bias, torch.float32)
        )
        # rank by counting who is larger (lower index first among equals): plain arithmetic, which fuses
        index = torch.arange(self.count, device=x.device)
        larger = logits[:, None, :] > logits[:, :, None]
        tied = (logits[:, None, :] == logits[:, :, None]) & (index[None, :] < index[:, None])
        chosen = (larger | tied).sum(-1) < self.top
        weights = logits.masked_fill(~chosen, float("-inf")).softmax(-1)
        load = chosen.float().mean(0) / self.top
        return weights, self.count * (load * logits.softmax(-1).mean(0)).sum()

    def forward(
        self, x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [T, hidden] → the same, and the load-balancing loss.

        gate_up [E, 2I, hidden] and down [E, hidden, I] are this layer's matrices as MXFP4 holds them.
        """
        weights, balance = self.route(x)
        both = F.linear(x.to(dtype), gate_up.flatten(0, 1), stored(self.gate_up_bias, dtype).flatten())
        both = both.float().unflatten(-1, (self.count, -1, 2))
        gate = both[..., 0].clamp(max=self.limit)
        up = both[..., 1].clamp(-self.limit, self.limit)
        inner = gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (up + 1) * weights[..., None]  # [T, E, I]
        out = F.linear(inner.to(dtype).flatten(1), down.transpose(0, 1).flatten(1)).float()
        return out + weights @ stored(self.down_bias, torch.float32), balance


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config)
        self.experts_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.experts = Experts(config)


class Network(nn.Module):
    """Packed rows of tokens → logits. `dtype` is what the matrix products compute in."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(
        self,
        config: ModelConfig,
        *,
        length: int,
        dtype: torch.dtype = torch.bfloat16,
        form: AttentionForm = DENSE,
    ) -> None:
        super().__init__()
        self.config, self.dtype, self.form = config, dtype, form
        self.embedding = nn.Parameter(torch.randn(config.vocab_size, config.hidden_size) * 0.5)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = _zeros(config.vocab_size, config.hidden_size)
        cos, sin = rope_tables(config.rope, config.head_dim, length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: torch.Tensor, documents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 [B, S], int [B, S] → logits [B, S, vocab] in `dtype`, mean load-balancing loss of the layers.

        Positions run along the row: rotary attention depends on distances alone, and documents see only
        themselves, so a document's place in its row changes nothing.
        """
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        masks = self.form.make_masks(documents, self.config.window)
        x = F.embedding(tokens, stored(self.embedding, torch.float32))
        gate_up, down = (weights.to(self.dtype) for weights in self.quantized_experts())
        balances = []
        for i, (block, sliding) in enumerate(zip(self._blocks(), self.config.sliding, strict=True)):
            mask = masks.sliding if sliding else masks.full
            x = x + block.attention(block.attention_norm(x), cos, sin, mask, self.form, self.dtype)
            out, balance = block.experts(block.experts_norm(x).flatten(0, 1), gate_up[i], down[i], self.dtype)
            x = x + out.view_as(x)
            balances.append(balance)
        logits = F.linear(self.norm(x).to(self.dtype), stored(self.head, self.dtype))
        return logits, torch.stack(balances).mean()

    def quantized_experts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [L, E, 2I, hidden] and [L, E, hidden, I]: what MXFP4 can hold, gradients straight through.

        All layers at once: the rounding is traced and compiled once, not twice a layer.
        """
        experts = [block.experts for block in self._blocks()]
        gate_up = torch.stack([e.gate_up_weight for e in experts])
        down = torch.stack([e.down_weight for e in experts])
        return fake_quantize(gate_up), fake_quantize(down)

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))
