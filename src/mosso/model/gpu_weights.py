"""The weights of a gpt-oss model in the layouts of the GPU kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosso.kernels.gpu.moe import GpuExperts


@dataclass(frozen=True, slots=True)
class GpuLayer:
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
    experts: GpuExperts


@dataclass(frozen=True, slots=True)
class GpuWeights:
    """A whole model on one device; matrices and biases have one dtype, norms and sinks are float32.

    The embedding may be in pinned memory of the host instead: a step reads some KiB a token of it.
    """

    embedding: torch.Tensor  # [vocab, hidden]
    layers: tuple[GpuLayer, ...]
    norm: torch.Tensor  # float32 [hidden]
    head: torch.Tensor  # [vocab, hidden]

    @property
    def device(self) -> torch.device:
        return self.head.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype
