"""mosso's reference against transformers' GptOssForCausalLM, through the files that transformers writes."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM

from mosso.checkpoint import open_checkpoint
from mosso.model.loading import load_weights
from mosso.model.reference import logits

LIMIT = 1e-4  # worst |a - b| / max |b|
SMALL = {
    "num_hidden_layers": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "sliding_window": 16,
    "max_position_embeddings": 131072,
}
YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
SPELLINGS = {
    "rope_parameters": {"rope_parameters": {**YARN, "rope_theta": 150000.0}},
    "rope_scaling": {"rope_scaling": YARN, "rope_theta": 150000.0},
}


def their_model(seed: int, **changes) -> GptOssForCausalLM:
    torch.manual_seed(seed)
    config = GptOssConfig(**{**SMALL, **SPELLINGS["rope_parameters"], **changes})
    config._attn_implementation = "eager"
    model = GptOssForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 1.0 if "norm" in name or "embed" in name else 0.3)
            parameter.copy_(parameter.bfloat16())  # what a file can hold
    return model


def save(model: GptOssForCausalLM, folder, spelling: str) -> None:
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters", None)
    path.write_text(json.dumps({**config, **SPELLINGS[spelling]}))


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    assert torch.isfinite(b).all()
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_past_the_window(tmp_path, seed, spelling):
    model = their_model(seed)
    save(model, tmp_path, spelling)
    with open_checkpoint(tmp_path) as checkpoint:
        weights = load_weights(checkpoint, dtype=torch.float32, experts="expanded")
        tokens = torch.randint(0, 128, (2, 90), generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            assert worst(logits(weights, checkpoint.config, tokens), model(tokens).logits) < LIMIT


@pytest.mark.parametrize("layers", [["full_attention"] * 2, ["sliding_attention"] * 2])
def test_other_layer_orders(tmp_path, layers):
    model = their_model(5, num_hidden_layers=2, layer_types=layers)
    save(model, tmp_path, "rope_parameters")
    with open_checkpoint(tmp_path) as checkpoint:
        weights = load_weights(checkpoint, dtype=torch.float32, experts="expanded")
        tokens = torch.arange(60)
        with torch.inference_mode():
            ours = logits(weights, checkpoint.config, tokens)
            assert worst(ours, model(tokens[None]).logits[0]) < LIMIT


def test_past_4096_positions(tmp_path):
    model = their_model(3, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1)
    save(model, tmp_path, "rope_scaling")
    with open_checkpoint(tmp_path) as checkpoint:
        weights = load_weights(checkpoint, dtype=torch.float32, experts="expanded")
        tokens = torch.randint(0, 128, (4160,), generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            ours = logits(weights, checkpoint.config, tokens)
            assert worst(ours, model(tokens[None]).logits[0]) < LIMIT


def test_mxfp4_experts(config, random_source):
    """Their model holds the dense matrices of our packed tensors; ours computes from the packed ones."""
    source = random_source(config, seed=4)
    dense = load_weights(source, dtype=torch.float32, experts="expanded")
    packed = load_weights(source, dtype=torch.float32, experts="packed")
    model = their_model(
        0,
        **{key: getattr(config, key) for key in ("hidden_size", "intermediate_size", "vocab_size")},
        sliding_window=config.window,
    )
    state = {name: tensor.float() for name, tensor in source.tensors.items() if "experts" not in name}
    for index, layer in enumerate(dense.layers):
        prefix = f"model.layers.{index}.mlp.experts."
        state[prefix + "gate_up_proj"] = layer.experts.gate_up.mT
        state[prefix + "down_proj"] = layer.experts.down.mT
        state[prefix + "gate_up_proj_bias"] = layer.experts.gate_up_bias
        state[prefix + "down_proj_bias"] = layer.experts.down_bias
    model.load_state_dict(state)
    tokens = torch.arange(50)
    with torch.inference_mode():
        theirs = model(tokens[None]).logits[0]
        assert worst(logits(packed, config, tokens), theirs) < LIMIT
        assert worst(logits(dense, config, tokens), theirs) < LIMIT


def test_the_limit_notices_a_small_change(config, random_source):
    """A missing quantum in one scale of one expert is far over the limit: the comparison has teeth."""
    source = random_source(config, seed=4)
    tokens = torch.arange(50)
    before = logits(load_weights(source, dtype=torch.float32), config, tokens)
    source.tensors["model.layers.0.mlp.experts.down_proj_scales"][0, 0, 0] += 1
    after = logits(load_weights(source, dtype=torch.float32), config, tokens)
    assert worst(after, before) > 10 * LIMIT


def test_bfloat16_stays_near(config, random_source):
    source = random_source(config, seed=6)
    tokens = torch.arange(40)
    wide = logits(load_weights(source, dtype=torch.float32), config, tokens)
    narrow = logits(load_weights(source, dtype=torch.bfloat16), config, tokens)
    assert narrow.dtype == torch.float32
    error = (narrow - wide).norm(dim=-1) / wide.norm(dim=-1)
    assert error.median() < 0.1  # not the worst: where a rounding changes an expert, much changes
