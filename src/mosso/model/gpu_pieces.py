"""The forward pass in pieces, cut at attention.

What lies between two attentions depends on a step's number of tokens alone, whoever they belong to: so pieces
can be captured once for each number, and started with one call. Attention depends on the rows and spans that
there are, and is launched anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosso.model.gpu_forward import GpuModel, GpuStep, add_norm, feed_forward, first_norm, output, project


@dataclass(frozen=True, slots=True)
class Between:
    """What passes from piece to piece; of T tokens the first T of each."""

    x: torch.Tensor  # float32 [T, H], the residual stream
    qkv: torch.Tensor  # [T, (heads + 2·KV) · D], rotated, before attention
    gathered: torch.Tensor  # [T, heads, D], behind it
    counts: torch.Tensor  # int32 [L, E]

    @classmethod
    def allocate(cls, model: GpuModel, tokens: int) -> Between:
        config, first = model.config, model.weights.layers[0]

        def empty(*shape: int, dtype: torch.dtype = first.qkv.dtype) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=first.qkv.device)

        return cls(
            x=empty(tokens, config.hidden_size, dtype=torch.float32),
            qkv=empty(tokens, len(first.qkv)),
            gathered=empty(tokens, config.num_heads, config.head_dim),
            counts=empty(config.num_layers, config.num_experts, dtype=torch.int32),
        )

    def part(self, tokens: int) -> Between:
        return Between(self.x[:tokens], self.qkv[:tokens], self.gathered[:tokens], self.counts)


def run_piece(model: GpuModel, step: GpuStep, index: int, between: Between) -> None:
    """From behind attention `index` - 1, or the start, to attention `index`, or the end; index 0 … layers.

    Between two pieces the caller turns the queries in `qkv` into what they gather. Of `step` a piece reads
    rows, positions and active. Never waits for the device.
    """
    x, layers = between.x, model.weights.layers
    if index == 0:
        x.copy_(model.ops.embed(model.tokens, step.rows, step.positions, model.weights.embedding))
        between.counts.zero_()
        normed = first_norm(model, x)
    else:
        normed = add_norm(model, index - 1, x, output(model, index - 1, between.gathered))
        normed = feed_forward(model, step, index - 1, x, normed, between.counts[index - 1])
    if index < len(layers):
        project(model, step, index, normed, out=between.qkv)
