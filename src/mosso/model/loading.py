"""From a checkpoint's tensors to Weights, one tensor after another.

Nothing is expanded unless asked: packed experts stay the bytes of the file (memory-mapped ones stay mapped),
so that a load takes little more than the file's own size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from mosso.core.config import ModelConfig
from mosso.core.errors import UsageError
from mosso.kernels.experts import ExpandedExperts, Experts, PackedExperts
from mosso.kernels.mxfp4 import dequantize
from mosso.model.weights import ExpertsForm, LayerWeights, Weights


class TensorSource(Protocol):
    """What loading needs of a checkpoint: shapes, how experts are stored, tensors by Hugging Face name.

    The tensors have the shapes that the config asks for: whoever opened the checkpoint has checked.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def experts_format(self) -> str:
        """ "mxfp4" (…_blocks and …_scales) or "bf16" (dense, transposed)."""
        ...

    def read(self, name: str, /) -> torch.Tensor: ...


def load_weights(
    source: TensorSource,
    *,
    dtype: torch.dtype = torch.bfloat16,
    storage: torch.dtype | None = None,
    experts: ExpertsForm = "packed",
    device: torch.device | str = "cpu",
) -> Weights:
    """The model of `source`, to be computed in `dtype` (float32 or bfloat16).

    storage: how dense matrices are held, `dtype` unless given. Published matrices are BF16, so bfloat16
    storage under float32 arithmetic halves the bytes and changes no result.
    experts: "packed" keeps MXFP4 as stored; "expanded" makes dense matrices, four (bfloat16) or eight
    (float32) times the bytes. `Weights.experts_form` tells which it is. Raises UsageError when packed
    experts are asked of a checkpoint that has none.
    """
    if experts == "packed" and source.experts_format != "mxfp4":
        raise UsageError(
            f"the checkpoint stores its experts as {source.experts_format}, not MXFP4: load them expanded"
        )
    return _Loader(source, dtype, storage or dtype, experts, torch.device(device)).weights()


@dataclass(frozen=True, slots=True)
class _Loader:
    """Reads, converts and places the tensors of one checkpoint."""

    source: TensorSource
    dtype: torch.dtype
    storage: torch.dtype
    form: ExpertsForm
    device: torch.device

    def weights(self) -> Weights:
        layers = range(self.source.config.num_layers)
        return Weights(
            embedding=self.matrix("model.embed_tokens.weight"),
            layers=tuple(self.layer(f"model.layers.{index}.") for index in layers),
            norm=self.wide("model.norm.weight"),
            head=self.matrix("lm_head.weight"),
            dtype=self.dtype,
        )

    def layer(self, prefix: str) -> LayerWeights:
        attention, router = prefix + "self_attn.", prefix + "mlp.router."
        return LayerWeights(
            attention_norm=self.wide(prefix + "input_layernorm.weight"),
            qkv=self.fused(attention, "weight", self.matrix),
            qkv_bias=self.fused(attention, "bias", self.vector),
            sinks=self.wide(attention + "sinks"),
            out=self.matrix(attention + "o_proj.weight"),
            out_bias=self.vector(attention + "o_proj.bias"),
            mlp_norm=self.wide(prefix + "post_attention_layernorm.weight"),
            router=self.matrix(router + "weight"),
            router_bias=self.vector(router + "bias"),
            experts=self.experts(prefix + "mlp.experts."),
        )

    def fused(self, prefix: str, kind: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        return torch.cat([read(f"{prefix}{name}_proj.{kind}") for name in "qkv"])

    def experts(self, prefix: str) -> Experts:
        gate_up, down = prefix + "gate_up_proj", prefix + "down_proj"
        gate_up_bias, down_bias = self.vector(gate_up + "_bias"), self.vector(down + "_bias")
        if self.form == "packed":
            return PackedExperts(*self.packed(gate_up), gate_up_bias, *self.packed(down), down_bias)
        return ExpandedExperts(self.expanded(gate_up), gate_up_bias, self.expanded(down), down_bias)

    def packed(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        blocks, scales = (self.source.read(name + kind) for kind in ("_blocks", "_scales"))
        return blocks.to(self.device), scales.to(self.device)

    def expanded(self, name: str) -> torch.Tensor:
        """Dense matrices [E, outputs, inputs], made one expert at a time to keep the peak low."""
        if self.source.experts_format == "mxfp4":
            blocks, scales = self.packed(name)
            each = (dequantize(*pair, self.storage) for pair in zip(blocks, scales, strict=True))
            shape = (*scales.shape[:2], scales.shape[2] * 32)
        else:  # the BF16-upcast variant stores each matrix as [inputs, outputs]
            stored = self.source.read(name)
            each = (matrix.to(self.device).T for matrix in stored)
            shape = (stored.shape[0], stored.shape[2], stored.shape[1])
        result = torch.empty(shape, dtype=self.storage, device=self.device)
        for expert, matrix in enumerate(each):
            result[expert] = matrix
        return result

    def matrix(self, name: str) -> torch.Tensor:
        return self.source.read(name).to(self.device, self.storage)

    def vector(self, name: str) -> torch.Tensor:
        """Biases: few numbers, held as they are added."""
        return self.source.read(name).to(self.device, self.dtype)

    def wide(self, name: str) -> torch.Tensor:
        """Norm weights and sinks: few numbers that take part in float32 arithmetic whatever the dtype."""
        return self.source.read(name).to(self.device, torch.float32)
