"""The weights of a gpt-oss model, as the forward passes want them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mosso.kernels.experts import Experts, PackedExperts

ExpertsForm = Literal["packed", "expanded"]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Matrices are [outputs, inputs]; queries, keys and values are fused in that order."""

    attention_norm: torch.Tensor  # float32 [hidden]
    qkv: torch.Tensor  # [(H + 2·KV)·D, hidden]
    qkv_bias: torch.Tensor  # [(H + 2·KV)·D]
    sinks: torch.Tensor  # float32 [H]
    out: torch.Tensor  # [hidden, H·D]
    out_bias: torch.Tensor  # [hidden]
    mlp_norm: torch.Tensor  # float32 [hidden]
    router: torch.Tensor  # [experts, hidden]
    router_bias: torch.Tensor  # [experts]
    experts: Experts


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model on one device.

    Matrices may be narrower than `dtype`, which is what activations, biases and products are: each matrix
    widens as it is used.
    """

    embedding: torch.Tensor  # [vocab, hidden]
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor  # float32 [hidden]
    head: torch.Tensor  # [vocab, hidden]
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def experts_form(self) -> ExpertsForm:
        """Whether the experts are still MXFP4 ("packed") or take their full size ("expanded")."""
        return "packed" if isinstance(self.layers[0].experts, PackedExperts) else "expanded"
