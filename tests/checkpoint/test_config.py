"""config.json in every dialect, and what is refused of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GptOssConfig

from mosso.checkpoint.config import (
    GenerationDefaults,
    config_json,
    generation_json,
    parse_config,
    read_config,
    read_experts_format,
    read_generation_defaults,
)
from mosso.checkpoint.fields import Fields
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig, YarnRope
from mosso.core.errors import CheckpointError

ORIGINAL_20B = {
    "num_hidden_layers": 24, "num_experts": 32, "experts_per_token": 4, "vocab_size": 201088,
    "hidden_size": 2880, "intermediate_size": 2880, "swiglu_limit": 7.0, "head_dim": 64,
    "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
    "initial_context_length": 4096, "rope_theta": 150000, "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1, "rope_ntk_beta": 32,
}  # fmt: skip


def parsed(values: dict[str, Any]) -> ModelConfig:
    return parse_config(Fields(values, Path("config.json")))


def published() -> dict[str, Any]:
    return config_json(GPT_OSS_20B)


def test_the_original_dialect_is_the_published_20b() -> None:
    assert parsed(ORIGINAL_20B) == GPT_OSS_20B


@pytest.mark.parametrize("config", [GPT_OSS_20B, GPT_OSS_120B])
def test_what_is_written_reads_back(config: ModelConfig) -> None:
    assert parsed(json.loads(json.dumps(config_json(config)))) == config


def test_every_field_reads_back() -> None:
    odd = replace(
        GPT_OSS_20B, num_layers=3, swiglu_limit=5.5, rms_norm_eps=1e-6, window=33, max_context=777,
        rope=YarnRope(10_000.0, 4.0, 2048, 16.0, 2.0), sliding=(False, False, True),
    )  # fmt: skip
    assert parsed(config_json(odd)) == odd


def test_transformers_writes_what_we_read_and_reads_what_we_write() -> None:
    """transformers 5 spells rope_parameters; from our spelling it makes the same configuration."""
    values = GptOssConfig(num_hidden_layers=24, num_local_experts=32).to_dict()
    assert "rope_parameters" in values
    assert "rope_scaling" not in values
    values["architectures"] = ["GptOssForCausalLM"]
    assert parsed(values) == GPT_OSS_20B
    theirs = GptOssConfig.from_dict(config_json(GPT_OSS_20B)).to_dict()
    assert parsed(theirs) == GPT_OSS_20B


def test_unscaled_rope_is_yarn_with_factor_one() -> None:
    values = published()
    del values["rope_scaling"], values["rope_theta"]
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0}
    assert parsed(values).rope == YarnRope(10_000.0, 1.0, 131_072)


def test_layer_types_may_be_absent() -> None:
    values = published()
    del values["layer_types"]
    assert parsed(values).sliding == GPT_OSS_20B.sliding


@pytest.mark.parametrize(
    ("key", "value", "culprit"),
    [
        ("model_type", "llama", "llama"),
        ("architectures", ["LlamaForCausalLM"], "LlamaForCausalLM"),
        ("num_hidden_layers", None, "num_hidden_layers"),
        ("num_hidden_layers", 0, "num_hidden_layers"),
        ("num_hidden_layers", 10**9, "num_hidden_layers"),
        ("hidden_size", "2880", "hidden_size"),
        ("hidden_size", True, "hidden_size"),
        ("hidden_size", 2880.5, "hidden_size"),
        ("vocab_size", -1, "vocab_size"),
        ("num_key_value_heads", 7, "num_attention_heads"),
        ("head_dim", 63, "head_dim"),
        ("num_experts_per_tok", 33, "num_experts_per_tok"),
        ("sliding_window", None, "sliding_window"),
        ("rms_norm_eps", 0, "rms_norm_eps"),
        ("swiglu_limit", float("nan"), "swiglu_limit"),
        ("layer_types", ["full_attention"], "layer_types"),
        ("layer_types", ["linear_attention"] * 24, "linear_attention"),
        ("layer_types", "full_attention", "layer_types"),
        ("rope_scaling", None, "rope_scaling"),
        ("rope_scaling", [1], "rope_scaling"),
        ("rope_theta", "big", "rope_theta"),
        ("attention_bias", False, "attention_bias"),
        ("tie_word_embeddings", True, "tie_word_embeddings"),
        ("hidden_act", "gelu", "hidden_act"),
        ("swiglu_alpha", 1.5, "swiglu_alpha"),
        ("quantization_config", {"quant_method": "fp8"}, "quantization_config.quant_method"),
    ],
)
def test_a_wrong_value_names_file_and_key(key: str, value: Any, culprit: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parsed(published() | {key: value})
    assert culprit in caught.value.message
    assert "config.json" in caught.value.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_type", "linear"),
        ("truncate", True),
        ("truncate", None),
        ("factor", 0.5),
        ("original_max_position_embeddings", 0),
        ("mscale", 2.0),
        ("attention_factor", 1.0),
        ("beta_fast", 0),
    ],
)
def test_a_wrong_rope_names_the_key(key: str, value: Any) -> None:
    values = published()
    values["rope_scaling"][key] = value
    if value is None:
        del values["rope_scaling"][key]
    with pytest.raises(CheckpointError, match=rf"rope_scaling\.{key}"):
        parsed(values)


def test_no_model_type_at_all() -> None:
    with pytest.raises(CheckpointError, match="model_type"):
        parsed({"hidden_size": 8})


@pytest.mark.parametrize("text", ["", "[]", "{", "nul", '{"a": ' * 5000, "\xff\xfe\xd8"])
def test_a_file_that_is_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin1")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read: No such file"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("values", "experts_format"),
    [
        (config_json(GPT_OSS_20B), "mxfp4"),
        (ORIGINAL_20B, "mxfp4"),
        (config_json(GPT_OSS_20B, experts_format="bf16"), "bf16"),
    ],
)
def test_a_bare_config_tells_how_experts_are_stored(
    tmp_path: Path, values: dict[str, Any], experts_format: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_experts_format(tmp_path) == experts_format
    assert read_experts_format(tmp_path / "config.json") == experts_format


@given(
    key=st.sampled_from(sorted(config_json(GPT_OSS_20B)) + sorted(ORIGINAL_20B)),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=4,
    ),
    original=st.booleans(),
)
def test_any_value_of_any_key_parses_or_is_refused(key: str, value: Any, original: bool) -> None:
    try:
        config = parsed((dict(ORIGINAL_20B) if original else published()) | {key: value})
    except CheckpointError:
        return
    assert len(config.sliding) == config.num_layers


def test_generation_defaults(tmp_path: Path) -> None:
    assert read_generation_defaults(tmp_path) == GenerationDefaults()
    file = tmp_path / "generation_config.json"
    file.write_text('{"bos_token_id": 199998, "do_sample": true, "eos_token_id": [200002, 199999, 200012]}')
    assert read_generation_defaults(tmp_path) == GenerationDefaults((200002, 199999, 200012))
    file.write_text('{"eos_token_id": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40}')
    assert read_generation_defaults(tmp_path) == GenerationDefaults((7,), 0.5, 0.9, 40)
    file.write_text('{"do_sample": false}')
    assert read_generation_defaults(tmp_path).temperature == 0.0


@pytest.mark.parametrize(
    "value", [GenerationDefaults((3, 4), 0.7, 0.8, 5), GenerationDefaults(temperature=0.0)]
)
def test_generation_defaults_read_back(tmp_path: Path, value: GenerationDefaults) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(generation_json(value)))
    assert read_generation_defaults(tmp_path) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"eos_token_id": "x"}',
        '{"eos_token_id": [-1]}',
        '{"top_p": 2}',
        '{"temperature": -1}',
        '{"top_k": 1.5}',
    ],
)
def test_wrong_generation_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match="generation_config"):
        read_generation_defaults(tmp_path)
