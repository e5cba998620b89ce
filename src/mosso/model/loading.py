"""From a checkpoint's tensors to Weights, one tensor after another.

Nothing is expanded unless asked: packed experts stay the bytes of the file (memory-mapped ones stay mapped),
so that a load takes little more than the file's own size.
"""

from __future__ import annotations

from typing import Protocol

import torch

from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError, UsageError
from mosso.kernels.experts import ExpandedExperts, Experts, PackedExperts
from mosso.kernels.mxfp4 import GROUP, dequantize
from mosso.model.weights import ExpertsForm, LayerWeights, Weights


class TensorSource(Protocol):
    """What loading needs of a checkpoint: its shape, how its experts are stored, tensors by name."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def experts_format(self) -> str:
        """ "mxfp4" (…_blocks and …_scales) or "bf16" (dense, transposed)."""
        ...

    def read(self, name: str) -> torch.Tensor: ...


def load_weights(
    source: TensorSource,
    *,
    dtype: torch.dtype = torch.bfloat16,
    experts: ExpertsForm = "packed",
    device: torch.device | str = "cpu",
) -> Weights:
    """The model of `source`, with dense weights as `dtype` (float32 or bfloat16).

    experts: "packed" keeps MXFP4 as stored, "expanded" makes dense matrices of `dtype` (eight times the
    bytes in float32). Raises UsageError when packed experts are asked of a checkpoint that has none, and
    CheckpointError for a tensor of the wrong shape.
    """
    if experts == "packed" and source.experts_format != "mxfp4":
        raise UsageError(
            f"the checkpoint stores its experts as {source.experts_format}, not MXFP4: load them expanded"
        )
    return _Loader(source, dtype, experts, torch.device(device)).weights()


class _Loader:
    """Reads, checks, converts and places the tensors of one checkpoint."""

    def __init__(
        self, source: TensorSource, dtype: torch.dtype, experts: ExpertsForm, device: torch.device
    ) -> None:
        self.source = source
        self.config = source.config
        self.dtype = dtype
        self.form = experts
        self.device = device

    def weights(self) -> Weights:
        c = self.config
        return Weights(
            embedding=self.dense("model.embed_tokens.weight", c.vocab_size, c.hidden_size),
            layers=tuple(self.layer(f"model.layers.{index}.") for index in range(c.num_layers)),
            norm=self.wide("model.norm.weight", c.hidden_size),
            head=self.dense("lm_head.weight", c.vocab_size, c.hidden_size),
        )

    def layer(self, prefix: str) -> LayerWeights:
        c, attn = self.config, prefix + "self_attn."
        queries, hidden = c.num_heads * c.head_dim, c.hidden_size
        return LayerWeights(
            attention_norm=self.wide(prefix + "input_layernorm.weight", hidden),
            qkv=self.fused(attn, "weight", hidden),
            qkv_bias=self.fused(attn, "bias"),
            sinks=self.wide(attn + "sinks", c.num_heads),
            out=self.dense(attn + "o_proj.weight", hidden, queries),
            out_bias=self.dense(attn + "o_proj.bias", hidden),
            mlp_norm=self.wide(prefix + "post_attention_layernorm.weight", hidden),
            router=self.dense(prefix + "mlp.router.weight", c.num_experts, hidden),
            router_bias=self.dense(prefix + "mlp.router.bias", c.num_experts),
            experts=self.experts(prefix + "mlp.experts."),
        )

    def fused(self, prefix: str, kind: str, *inputs: int) -> torch.Tensor:
        c = self.config
        heads = (("q_proj", c.num_heads), ("k_proj", c.num_kv_heads), ("v_proj", c.num_kv_heads))
        return torch.cat([self.dense(f"{prefix}{name}.{kind}", n * c.head_dim, *inputs) for name, n in heads])

    def experts(self, prefix: str) -> Experts:
        c = self.config
        gate_up_bias = self.dense(prefix + "gate_up_proj_bias", c.num_experts, 2 * c.intermediate_size)
        down_bias = self.dense(prefix + "down_proj_bias", c.num_experts, c.hidden_size)
        gate_up_shape = (c.num_experts, 2 * c.intermediate_size, c.hidden_size)
        down_shape = (c.num_experts, c.hidden_size, c.intermediate_size)
        if self.form == "packed":
            gate_up = self.packed(prefix + "gate_up_proj", *gate_up_shape)
            down = self.packed(prefix + "down_proj", *down_shape)
            return PackedExperts(*gate_up, gate_up_bias, *down, down_bias)
        return ExpandedExperts(
            self.expanded(prefix + "gate_up_proj", *gate_up_shape),
            gate_up_bias,
            self.expanded(prefix + "down_proj", *down_shape),
            down_bias,
        )

    def packed(self, name: str, count: int, outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = self.read(name + "_blocks", count, outputs, inputs // GROUP, GROUP // 2)
        scales = self.read(name + "_scales", count, outputs, inputs // GROUP)
        return blocks.to(self.device), scales.to(self.device)

    def expanded(self, name: str, count: int, outputs: int, inputs: int) -> torch.Tensor:
        """Dense matrices [E, outputs, inputs], made one expert at a time to keep the peak low."""
        result = torch.empty(count, outputs, inputs, dtype=self.dtype, device=self.device)
        if self.source.experts_format == "mxfp4":
            blocks, scales = self.packed(name, count, outputs, inputs)
            for expert in range(count):
                result[expert] = dequantize(blocks[expert], scales[expert], self.dtype)
        else:  # the BF16-upcast variant stores each matrix as [inputs, outputs]
            stored = self.read(name, count, inputs, outputs)
            for expert in range(count):
                result[expert] = stored[expert].to(self.device).T
        return result

    def dense(self, name: str, *shape: int) -> torch.Tensor:
        return self.read(name, *shape).to(self.device, self.dtype)

    def wide(self, name: str, *shape: int) -> torch.Tensor:
        """Norm weights and sinks: few numbers that take part in float32 arithmetic."""
        return self.read(name, *shape).to(self.device, torch.float32)

    def read(self, name: str, *shape: int) -> torch.Tensor:
        tensor = self.source.read(name)
        if tensor.shape != shape:
            raise CheckpointError(f"expected shape {list(shape)}, found {list(tensor.shape)}", tensor=name)
        return tensor
