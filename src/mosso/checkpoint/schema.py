"""Which tensors a gpt-oss checkpoint holds, with shapes: the published files, down to the byte.

The names are Hugging Face's; the one naming that the rest of the program sees. Experts come in one of two
formats: `mxfp4`, packed blocks and scales as published, or `bf16`, the upcast variant, stored transposed
(x @ W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mosso.checkpoint.config import ExpertsFormat
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError

MXFP4_BLOCK = 32  # values that share one scale; 16 bytes
WeightKind = Literal["embedding", "attention", "norm", "router", "experts", "head"]
DENSE_DTYPES = ("BF16", "F16", "F32")  # the published files have BF16
PACKED_DTYPES = ("U8",)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor must be. Its first dtype is the published one."""

    shape: tuple[int, ...]
    kind: WeightKind
    dtypes: tuple[str, ...] = DENSE_DTYPES

    @property
    def nbytes(self) -> int:
        """As published: BF16 or packed bytes."""
        return math.prod(self.shape) * (1 if self.dtypes is PACKED_DTYPES else 2)


def expected_tensors(config: ModelConfig, experts_format: ExpertsFormat = "mxfp4") -> dict[str, TensorSpec]:
    """Every tensor of the checkpoint by name, in the order of the forward pass."""
    table = TensorSpec((config.vocab_size, config.hidden_size), "embedding")
    specs = {"model.embed_tokens.weight": table}
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        for part in (_attention(config), _router(config), _experts(config, experts_format)):
            specs |= {prefix + name: spec for name, spec in part.items()}
    specs["model.norm.weight"] = TensorSpec((config.hidden_size,), "norm")
    specs["lm_head.weight"] = TensorSpec((config.vocab_size, config.hidden_size), "head")
    return specs


def _attention(config: ModelConfig) -> dict[str, TensorSpec]:
    hidden, q = config.hidden_size, config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    specs = {"input_layernorm.weight": TensorSpec((hidden,), "norm")}
    for name, rows, columns in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
        specs[f"self_attn.{name}_proj.weight"] = TensorSpec((rows, columns), "attention")
        specs[f"self_attn.{name}_proj.bias"] = TensorSpec((rows,), "attention")
    specs["self_attn.sinks"] = TensorSpec((config.num_heads,), "attention")
    return specs


def _router(config: ModelConfig) -> dict[str, TensorSpec]:
    return {
        "post_attention_layernorm.weight": TensorSpec((config.hidden_size,), "norm"),
        "mlp.router.weight": TensorSpec((config.num_experts, config.hidden_size), "router"),
        "mlp.router.bias": TensorSpec((config.num_experts,), "router"),
    }


def _experts(config: ModelConfig, experts_format: ExpertsFormat) -> dict[str, TensorSpec]:
    hidden, inner, num = config.hidden_size, config.intermediate_size, config.num_experts
    specs: dict[str, TensorSpec] = {}
    for name, rows, columns in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
        stem = f"mlp.experts.{name}"
        if experts_format == "mxfp4":
            if columns % MXFP4_BLOCK:
                raise CheckpointError(f"MXFP4 experts need sizes that are multiples of 32, not {columns}")
            blocks = (num, rows, columns // MXFP4_BLOCK)
            specs[f"{stem}_blocks"] = TensorSpec((*blocks, MXFP4_BLOCK // 2), "experts", PACKED_DTYPES)
            specs[f"{stem}_scales"] = TensorSpec(blocks, "experts", PACKED_DTYPES)
        else:
            specs[stem] = TensorSpec((num, columns, rows), "experts")
        specs[f"{stem}_bias"] = TensorSpec((num, rows), "experts")
    return specs


def experts_format_of(names: Mapping[str, object]) -> ExpertsFormat:
    """Which format these (canonical) names are in, by the first layer's experts."""
    return "bf16" if "model.layers.0.mlp.experts.gate_up_proj" in names else "mxfp4"


def total_bytes(config: ModelConfig, experts_format: ExpertsFormat = "mxfp4") -> int:
    """Bytes of all tensors as published: what the index calls total_size."""
    return sum(spec.nbytes for spec in expected_tensors(config, experts_format).values())


_ORIGINAL_LAYER = {
    "attn.norm.scale": ("input_layernorm.weight",),
    "attn.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attn.qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "attn.sinks": ("self_attn.sinks",),
    "attn.out.weight": ("self_attn.o_proj.weight",),
    "attn.out.bias": ("self_attn.o_proj.bias",),
    "mlp.norm.scale": ("post_attention_layernorm.weight",),
    "mlp.gate.weight": ("mlp.router.weight",),
    "mlp.gate.bias": ("mlp.router.bias",),
    "mlp.mlp1_weight.blocks": ("mlp.experts.gate_up_proj_blocks",),
    "mlp.mlp1_weight.scales": ("mlp.experts.gate_up_proj_scales",),
    "mlp.mlp1_bias": ("mlp.experts.gate_up_proj_bias",),
    "mlp.mlp2_weight.blocks": ("mlp.experts.down_proj_blocks",),
    "mlp.mlp2_weight.scales": ("mlp.experts.down_proj_scales",),
    "mlp.mlp2_bias": ("mlp.experts.down_proj_bias",),
}


def original_names(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Each tensor of the `original/` layout → the canonical ones it holds, stacked along the first axis."""
    names: dict[str, tuple[str, ...]] = {"embedding.weight": ("model.embed_tokens.weight",)}
    for layer in range(config.num_layers):
        for stored, parts in _ORIGINAL_LAYER.items():
            names[f"block.{layer}.{stored}"] = tuple(f"model.layers.{layer}.{part}" for part in parts)
    return names | {"norm.scale": ("model.norm.weight",), "unembedding.weight": ("lm_head.weight",)}
