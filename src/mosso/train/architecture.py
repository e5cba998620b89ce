"""The demo's shape: gpt-oss in small."""

from __future__ import annotations

from mosso.core.config import ModelConfig

MAX_WEIGHT_BYTES = 16_000_000  # what the package may carry

DEMO = ModelConfig(
    num_layers=8,
    num_experts=8,
    experts_per_token=4,
    hidden_size=256,
    intermediate_size=256,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=3072,
    window=128,
    max_context=4096,
)
