"""config.json and generation_config.json ↔ the values that the program uses.

Two dialects of config.json exist: Hugging Face's (older files have `rope_scaling` and `rope_theta`, those of
transformers 5 `rope_parameters`) and that of the `original/` folder. What the architecture fixes and a file
says otherwise is refused: a setting that would be ignored must not look accepted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mosso.checkpoint.fields import Fields, read_object, shown
from mosso.core.config import SWIGLU_ALPHA, ModelConfig, YarnRope

ExpertsFormat = Literal["mxfp4", "bf16"]
Layout = Literal["huggingface", "original"]

ARCHITECTURE = "GptOssForCausalLM"
MODEL_TYPE = "gpt_oss"
MAX_LAYERS = 1024
MAX_SIZE = 1 << 24  # of any other dimension
_KINDS = {"sliding_attention": True, "full_attention": False}
_NOT_CONVERTED = ("model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head")


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What generation_config.json asks for when a request does not say."""

    eos_ids: tuple[int, ...] = ()  # empty: the file does not say; the tokenizer knows
    temperature: float = 1.0  # 0: greedy (the file has do_sample false)
    top_p: float = 1.0
    top_k: int = 0  # 0: off


def read_config(path: Path) -> ModelConfig:
    """The architecture in a config.json, given as the file or the folder that holds it.

    Raises CheckpointError, naming file and key, for another architecture or a value that makes no sense.
    """
    return parse_config(read_object(path / "config.json" if path.is_dir() else path))


def read_experts_format(path: Path) -> ExpertsFormat:
    """How experts are stored, as a bare config.json tells: it declares MXFP4, or they are plain matrices."""
    fields = read_object(path / "config.json" if path.is_dir() else path)
    declared = config_layout(fields) == "original" or fields.section("quantization_config") is not None
    return "mxfp4" if declared else "bf16"


def config_layout(fields: Fields) -> Layout:
    """Which dialect a config.json is in; CheckpointError when it is not gpt-oss in either."""
    architectures = fields.values.get("architectures")
    model_type = fields.values.get("model_type")
    if model_type is None and architectures is None:
        if "num_experts" in fields.values and "num_hidden_layers" in fields.values:
            return "original"
        raise fields.error("model_type", f"is missing; mosso runs {MODEL_TYPE} only")
    if model_type is not None and model_type != MODEL_TYPE:
        raise fields.error("model_type", f"is {shown(model_type)}; mosso runs {MODEL_TYPE} only")
    if architectures is not None and architectures != [ARCHITECTURE]:
        raise fields.error("architectures", f"is {shown(architectures)}; mosso runs {ARCHITECTURE} only")
    return "huggingface"


def parse_config(fields: Fields) -> ModelConfig:
    """ModelConfig of either dialect."""
    layout = config_layout(fields)
    _refuse_other_arithmetic(fields)
    num_layers = fields.integer("num_hidden_layers", low=1, high=MAX_LAYERS)
    rope = _original_rope(fields) if layout == "original" else _rope(fields)
    scaled_context = min(max(int(rope.original_max_positions * rope.factor), 1), MAX_SIZE)
    config = ModelConfig(
        num_layers=num_layers,
        num_experts=_size(fields, "num_local_experts", "num_experts"),
        experts_per_token=_size(fields, "num_experts_per_tok", "experts_per_token"),
        hidden_size=_size(fields, "hidden_size"),
        intermediate_size=_size(fields, "intermediate_size"),
        num_heads=_size(fields, "num_attention_heads"),
        num_kv_heads=_size(fields, "num_key_value_heads"),
        head_dim=_size(fields, "head_dim"),
        vocab_size=_size(fields, "vocab_size"),
        window=_size(fields, "sliding_window"),
        max_context=_size(fields, "max_position_embeddings", default=scaled_context),
        swiglu_limit=fields.number("swiglu_limit", low=1e-3, high=1e6, default=7.0),
        rms_norm_eps=fields.number("rms_norm_eps", low=1e-12, high=1.0, default=1e-5),
        rope=rope,
        sliding=_sliding(fields, num_layers),
    )
    _check_sizes(config, fields)
    return config


def _size(fields: Fields, *names: str, default: int | None = None) -> int:
    return fields.integer(*names, low=1, high=MAX_SIZE, default=default)


def _refuse_other_arithmetic(fields: Fields) -> None:
    fields.require("attention_bias", True, "gpt-oss has biases on q, k, v and o")
    fields.require("tie_word_embeddings", False, "gpt-oss has an output head of its own")
    fields.require("hidden_act", "silu", "gpt-oss has silu")
    fields.require("swiglu_alpha", SWIGLU_ALPHA, f"gpt-oss has {SWIGLU_ALPHA}")
    quantization = fields.section("quantization_config")
    if quantization is not None:
        quantization.require("quant_method", "mxfp4", "only mxfp4 and unquantised experts are supported")


def _rope(fields: Fields) -> YarnRope:
    rope = fields.section("rope_parameters") or fields.section("rope_scaling")
    if rope is None:
        raise fields.error("rope_scaling", "is missing, and so is rope_parameters")
    theta = (rope if rope.values.get("rope_theta") is not None else fields).number(
        "rope_theta", low=1.001, high=1e12
    )
    _, kind = rope.get("rope_type", "type")
    if kind == "default":  # no scaling: YaRN with factor 1 is the identity
        return YarnRope(theta, 1.0, _size(fields, "max_position_embeddings"))
    if kind != "yarn":
        raise rope.error("rope_type", f"must be yarn, not {shown(kind)}")
    if rope.values.get("truncate", True) is not False:
        raise rope.error("truncate", "must be false")
    factor = rope.number("factor", low=1.0, high=1e6)
    for key in ("mscale", "mscale_all_dim"):
        rope.require(key, None, "not supported for gpt-oss")
    rope.require("attention_factor", 0.1 * math.log(factor) + 1.0, "only YaRN's own is supported")
    start = _size(
        rope if rope.values.get("original_max_position_embeddings") is not None else fields,
        "original_max_position_embeddings",
        "initial_context_length",
    )
    return YarnRope(
        theta=theta,
        factor=factor,
        original_max_positions=start,
        beta_fast=rope.number("beta_fast", low=1e-3, high=1e6, default=32.0),
        beta_slow=rope.number("beta_slow", low=1e-3, high=1e6, default=1.0),
    )


def _original_rope(fields: Fields) -> YarnRope:
    return YarnRope(
        theta=fields.number("rope_theta", low=1.001, high=1e12),
        factor=fields.number("rope_scaling_factor", low=1.0, high=1e6),
        original_max_positions=_size(fields, "initial_context_length"),
        beta_fast=fields.number("rope_ntk_beta", low=1e-3, high=1e6, default=32.0),
        beta_slow=fields.number("rope_ntk_alpha", low=1e-3, high=1e6, default=1.0),
    )


def _sliding(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    kinds = fields.values.get("layer_types")
    if kinds is None:
        return ()  # ModelConfig alternates by itself
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise fields.error("layer_types", f"must list {num_layers} layers, as num_hidden_layers says")
    for kind in kinds:
        if not isinstance(kind, str) or kind not in _KINDS:
            raise fields.error("layer_types", f"knows {' and '.join(_KINDS)}, not {shown(kind)}")
    return tuple(_KINDS[kind] for kind in kinds)


def _check_sizes(config: ModelConfig, fields: Fields) -> None:
    if config.num_heads % config.num_kv_heads:
        raise fields.error(
            "num_attention_heads", f"must be a multiple of {config.num_kv_heads} key/value heads"
        )
    if config.head_dim % 2:
        raise fields.error("head_dim", f"must be even, not {config.head_dim}")
    if config.experts_per_token > config.num_experts:
        raise fields.error("num_experts_per_tok", f"must not exceed the {config.num_experts} experts")


def read_generation_defaults(folder: Path) -> GenerationDefaults:
    """generation_config.json of a folder; the model card's plain sampling where it is absent."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return GenerationDefaults()
    fields = read_object(file)
    greedy = fields.values.get("do_sample") is False
    return GenerationDefaults(
        eos_ids=_eos_ids(fields),
        temperature=0.0 if greedy else fields.number("temperature", low=0.0, high=100.0, default=1.0),
        top_p=fields.number("top_p", low=0.0, high=1.0, default=1.0),
        top_k=fields.integer("top_k", low=0, high=MAX_SIZE, default=0),
    )


def _eos_ids(fields: Fields) -> tuple[int, ...]:
    value = fields.values.get("eos_token_id")
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    for item in ids:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < MAX_SIZE:
            raise fields.error("eos_token_id", f"must be token ids, not {shown(value)}")
    return tuple(ids)


def config_json(
    config: ModelConfig,
    *,
    experts_format: ExpertsFormat = "mxfp4",
    dtype: str = "bfloat16",
    generation: GenerationDefaults | None = None,
) -> dict[str, Any]:
    """The Hugging Face config.json of `config`, spelled as the published files are; transformers reads it."""
    rope = config.rope
    values: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "experts_per_token": config.experts_per_token,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initial_context_length": rope.original_max_positions,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_types": [f"{'sliding' if sliding else 'full'}_attention" for sliding in config.sliding],
        "max_position_embeddings": config.max_context,
        "model_type": MODEL_TYPE,
        "num_attention_heads": config.num_heads,
        "num_experts_per_tok": config.experts_per_token,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "num_local_experts": config.num_experts,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": {
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_max_positions,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": rope.theta,
        "sliding_window": config.window,
        "swiglu_limit": config.swiglu_limit,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    if experts_format == "mxfp4":
        values["quantization_config"] = {
            "modules_to_not_convert": list(_NOT_CONVERTED),
            "quant_method": "mxfp4",
        }
    if generation is not None and generation.eos_ids:
        values["eos_token_id"] = generation.eos_ids[0]
    return values


def generation_json(generation: GenerationDefaults) -> dict[str, Any]:
    """The generation_config.json that read_generation_defaults reads back."""
    values: dict[str, Any] = {"do_sample": generation.temperature > 0, "top_p": generation.top_p}
    if generation.temperature > 0:
        values["temperature"] = generation.temperature
    if generation.top_k:
        values["top_k"] = generation.top_k
    if generation.eos_ids:
        values["eos_token_id"] = list(generation.eos_ids)
    return values
