"""Small checkpoints on disk, in both layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mosso.checkpoint.random_weights import write_random
from mosso.core.config import ModelConfig

SMALL = ModelConfig(
    num_layers=2,
    num_experts=4,
    experts_per_token=2,
    hidden_size=64,
    intermediate_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=320,
    window=8,
    max_context=4096 * 32,
)


@pytest.fixture(scope="session")
def small() -> ModelConfig:
    return SMALL


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded Hugging Face checkpoint; copy it before changing it."""
    folder = tmp_path_factory.mktemp("written") / "small"
    write_random(folder, SMALL, device="cpu", shard_bytes=40_000)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A checkpoint of the test's own."""
    return Path(shutil.copytree(written, tmp_path / "small"))


@pytest.fixture
def write_original() -> Callable[..., None]:
    """Writes tensors (by Hugging Face name) in the original/ layout, as the published folder has it."""
    return _write_original


def _write_original(
    folder: Path, tensors: dict[str, torch.Tensor], config: ModelConfig, shards: int = 1
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    out = {
        "embedding.weight": tensors["model.embed_tokens.weight"],
        "norm.scale": tensors["model.norm.weight"],
        "unembedding.weight": tensors["lm_head.weight"],
    }
    for n in range(config.num_layers):
        a, m = f"model.layers.{n}.self_attn.", f"model.layers.{n}.mlp."
        b = f"block.{n}."
        for kind in ("weight", "bias"):
            out[f"{b}attn.qkv.{kind}"] = torch.cat([tensors[f"{a}{x}_proj.{kind}"] for x in "qkv"])
            out[f"{b}attn.out.{kind}"] = tensors[f"{a}o_proj.{kind}"]
            out[f"{b}mlp.gate.{kind}"] = tensors[f"{m}router.{kind}"]
        out[f"{b}attn.sinks"] = tensors[f"{a}sinks"]
        out[f"{b}attn.norm.scale"] = tensors[f"model.layers.{n}.input_layernorm.weight"]
        out[f"{b}mlp.norm.scale"] = tensors[f"model.layers.{n}.post_attention_layernorm.weight"]
        for number, name in ((1, "gate_up_proj"), (2, "down_proj")):
            out[f"{b}mlp.mlp{number}_weight.blocks"] = tensors[f"{m}experts.{name}_blocks"]
            out[f"{b}mlp.mlp{number}_weight.scales"] = tensors[f"{m}experts.{name}_scales"]
            out[f"{b}mlp.mlp{number}_bias"] = tensors[f"{m}experts.{name}_bias"]
    names = sorted(out)
    for shard in range(shards):
        part = {name: out[name].clone() for name in names[shard::shards]}
        file = f"model--{shard + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        save_file(part, folder / file)
    rope = config.rope
    (folder / "dtypes.json").write_text("{}")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "num_hidden_layers": config.num_layers,
                "num_experts": config.num_experts,
                "experts_per_token": config.experts_per_token,
                "vocab_size": config.vocab_size,
                "hidden_size": config.hidden_size,
                "intermediate_size": config.intermediate_size,
                "swiglu_limit": config.swiglu_limit,
                "head_dim": config.head_dim,
                "num_attention_heads": config.num_heads,
                "num_key_value_heads": config.num_kv_heads,
                "sliding_window": config.window,
                "initial_context_length": rope.original_max_positions,
                "rope_theta": rope.theta,
                "rope_scaling_factor": rope.factor,
                "rope_ntk_alpha": rope.beta_slow,
                "rope_ntk_beta": rope.beta_fast,
            }
        )
    )
