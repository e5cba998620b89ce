"""The numbers of a gpt-oss architecture, whatever file they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace

SWIGLU_ALPHA = 1.702  # not in any config file; fixed by the architecture


@dataclass(frozen=True, slots=True)
class YarnRope:
    """Rotary embedding with YaRN scaling (arXiv 2309.00071), truncate=False."""

    theta: float = 150_000.0
    factor: float = 32.0
    original_max_positions: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and constants of one gpt-oss model; sizes in elements."""

    num_layers: int
    num_experts: int
    experts_per_token: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    window: int  # a sliding layer's query at position q sees keys q - window + 1 .. q
    max_context: int
    swiglu_limit: float = 7.0
    rms_norm_eps: float = 1e-5
    rope: YarnRope = YarnRope()
    sliding: tuple[bool, ...] = ()  # per layer; the published models alternate, starting with sliding

    def __post_init__(self) -> None:
        if not self.sliding:
            object.__setattr__(self, "sliding", tuple(i % 2 == 0 for i in range(self.num_layers)))

    @property
    def parameters(self) -> int:
        """How many there are, embedding and output head included."""
        hidden, heads = self.hidden_size, self.num_heads * self.head_dim
        qkv = heads + 2 * self.num_kv_heads * self.head_dim
        attention = (hidden + 1) * qkv + (heads + 1) * hidden + self.num_heads  # sinks: one a head
        expert = (hidden + 1) * 2 * self.intermediate_size + (self.intermediate_size + 1) * hidden
        layer = attention + (hidden + 1) * self.num_experts + self.num_experts * expert + 2 * hidden
        return 2 * self.vocab_size * hidden + self.num_layers * layer + hidden


GPT_OSS_20B = ModelConfig(
    num_layers=24,
    num_experts=32,
    experts_per_token=4,
    hidden_size=2880,
    intermediate_size=2880,
    num_heads=64,
    num_kv_heads=8,
    head_dim=64,
    vocab_size=201_088,
    window=128,
    max_context=131_072,
)
GPT_OSS_120B = replace(GPT_OSS_20B, num_layers=36, num_experts=128, sliding=())
