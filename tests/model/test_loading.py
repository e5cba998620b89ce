from __future__ import annotations

import pytest
import torch

from mosso.core.errors import UsageError
from mosso.kernels.experts import ExpandedExperts, PackedExperts
from mosso.kernels.mxfp4 import dequantize
from mosso.model.loading import load_weights
from mosso.model.reference import logits

DOWN = "model.layers.1.mlp.experts.down_proj"
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"


def upcast(source):
    """The BF16 variant of a checkpoint: dense experts, [E, inputs, outputs]."""
    tensors = dict(source.tensors)
    for name in [name.removesuffix("_blocks") for name in tensors if name.endswith("_blocks")]:
        pair = tensors.pop(name + "_blocks"), tensors.pop(name + "_scales")
        tensors[name] = dequantize(*pair, torch.bfloat16).mT.contiguous()
    dense = type(source)(source.config, source.seed, experts_format="bf16")
    dense.tensors.clear()
    dense.tensors.update(tensors)
    return dense


def test_packed_experts_are_the_stored_bytes_themselves(config, random_source):
    source = random_source(config, seed=0)
    weights = load_weights(source)
    experts = weights.layers[1].experts
    assert weights.experts_form == "packed"
    assert isinstance(experts, PackedExperts)
    assert experts.down_blocks.data_ptr() == source.tensors[DOWN + "_blocks"].data_ptr()
    assert experts.gate_up_scales.data_ptr() == source.tensors[GATE_UP + "_scales"].data_ptr()
    assert weights.embedding.data_ptr() == source.tensors["model.embed_tokens.weight"].data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_expanded_experts_are_exact_in_either_type(config, random_source, dtype):
    source = random_source(config, seed=0)
    weights = load_weights(source, dtype=dtype, experts="expanded")
    experts = weights.layers[1].experts
    assert weights.experts_form == "expanded"
    assert isinstance(experts, ExpandedExperts)
    assert experts.down.dtype == dtype
    stored = source.tensors[DOWN + "_blocks"], source.tensors[DOWN + "_scales"]
    assert torch.equal(experts.down, dequantize(*stored, dtype))


def test_queries_keys_and_values_are_fused_in_order(config, random_source):
    source = random_source(config, seed=0)
    layer = load_weights(source).layers[2]
    for kind, fused in (("weight", layer.qkv), ("bias", layer.qkv_bias)):
        parts = [source.tensors[f"model.layers.2.self_attn.{name}_proj.{kind}"] for name in "qkv"]
        assert torch.equal(fused, torch.cat(parts))


def test_the_upcast_variant_gives_the_same_model(config, random_source):
    source = random_source(config, seed=0)
    tokens = torch.arange(20)
    packed = load_weights(source, dtype=torch.float32)
    dense = load_weights(upcast(source), dtype=torch.float32, experts="expanded")
    assert torch.allclose(logits(packed, config, tokens), logits(dense, config, tokens), atol=1e-4)
    for one, other in zip(
        load_weights(source, dtype=torch.float32, experts="expanded").layers, dense.layers, strict=True
    ):
        assert torch.equal(one.experts.gate_up, other.experts.gate_up)
        assert torch.equal(one.experts.down, other.experts.down)


def test_packed_experts_of_an_upcast_checkpoint_are_refused(config, random_source):
    with pytest.raises(UsageError, match="bf16"):
        load_weights(upcast(random_source(config, seed=0)), experts="packed")


def test_narrow_storage_changes_no_result(config, random_source):
    source = random_source(config, seed=0)
    tokens = torch.arange(20)
    wide = load_weights(source, dtype=torch.float32, experts="expanded")
    narrow = load_weights(source, dtype=torch.float32, storage=torch.bfloat16, experts="expanded")
    assert narrow.head.dtype == torch.bfloat16
    assert narrow.dtype == torch.float32
    assert torch.equal(logits(wide, config, tokens), logits(narrow, config, tokens))
