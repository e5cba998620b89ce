"""What the engine is held to on one H100 80GB: another engine's figures, musts and aims."""

from __future__ import annotations

from dataclasses import dataclass

from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig
from mosso.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure: milliseconds of a step, tokens a second, or tokens."""

    vllm: float  # vLLM 0.26.0, measured on the same kind of machine
    must: float
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Bars:
    """One model's: `prompt` tokens in and `output` out, bfloat16 keys and values, temperature 1."""

    name: str
    decode: dict[int, Bar]  # milliseconds of a step, less is better, by how many rows decode
    prefill: Bar  # prompt tokens a second, more is better
    kv_tokens: Bar  # tokens of context that fit 93 % of the memory, more is better
    prompt: int = 1024
    output: int = 256


BARS_20B = Bars(
    "gpt-oss-20b",
    decode={
        1: Bar(3.29, 1.80, 1.50),
        8: Bar(5.40, 4.40, 3.80),
        32: Bar(7.42, 6.20, 5.40),
        64: Bar(8.64, 6.90, 5.90),
        128: Bar(11.33, 8.50, 6.90),
        256: Bar(15.85, 11.5, 8.80),
        512: Bar(27.59, 18.0, 12.8),
    },
    prefill=Bar(78_000, 80_000, 100_000),
    kv_tokens=Bar(1_269_839, 2_400_000),
)
BARS_120B = Bars(
    "gpt-oss-120b",
    decode={
        1: Bar(4.68, 2.50, 2.10),
        8: Bar(9.52, 8.00, 7.00),
        32: Bar(18.4, 17.5, 16.0),
        64: Bar(24.6, 23.0, 21.5),
        128: Bar(30.5, 27.5, 25.5),
    },
    prefill=Bar(48_000, 52_000, 66_000),
    kv_tokens=Bar(146_081, 280_000),
)


def bars_for(config: ModelConfig) -> Bars:
    """Of the model that has this shape; its weights may be random. Raises UsageError for any other shape."""
    for known, bars in ((GPT_OSS_20B, BARS_20B), (GPT_OSS_120B, BARS_120B)):
        if _shape(config) == _shape(known):
            return bars
    raise UsageError("bench table: there are bars for gpt-oss-20b and gpt-oss-120b only, not for this shape")


def _shape(config: ModelConfig) -> tuple[int, ...]:
    c = config
    return (
        c.num_layers, c.num_experts, c.experts_per_token, c.hidden_size, c.intermediate_size,
        c.num_heads, c.num_kv_heads, c.head_dim, c.vocab_size, c.window,
    )  # fmt: skip
