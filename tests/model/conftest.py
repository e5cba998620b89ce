"""Helpers for the model's tests: tiny random models and the inputs of paged steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch

from mosso.core.config import ModelConfig
from mosso.kernels.mxfp4 import quantize
from mosso.kernels.operations import Operations
from mosso.model.inputs import StepInputs
from mosso.model.loading import load_weights
from mosso.model.paged import PagedKV, forward
from mosso.model.weights import Weights

CONFIG = ModelConfig(
    num_layers=4,
    num_experts=4,
    experts_per_token=2,
    hidden_size=64,
    intermediate_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=96,
    window=8,
    max_context=512,
)


@dataclass(frozen=True)
class RandomSource:
    """A checkpoint in memory: the tensors of a random model, BF16 and MXFP4 as a file would have them."""

    config: ModelConfig
    seed: int
    experts_format: str = "mxfp4"
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        c = self.config

        def put(name: str, *shape: int, scale: float = 0.3) -> None:
            self.tensors[name] = (torch.randn(*shape, generator=generator) * scale).bfloat16()

        def put_experts(name: str, outputs: int, inputs: int) -> None:
            put(name + "_bias", c.num_experts, outputs)
            blocks, scales = quantize(torch.randn(c.num_experts, outputs, inputs, generator=generator) * 0.3)
            self.tensors[name + "_blocks"], self.tensors[name + "_scales"] = blocks, scales

        queries, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        put("model.embed_tokens.weight", c.vocab_size, c.hidden_size, scale=1.0)
        put("lm_head.weight", c.vocab_size, c.hidden_size)
        put("model.norm.weight", c.hidden_size, scale=1.0)
        for index in range(c.num_layers):
            prefix = f"model.layers.{index}."
            put(prefix + "input_layernorm.weight", c.hidden_size, scale=1.0)
            put(prefix + "post_attention_layernorm.weight", c.hidden_size, scale=1.0)
            for name, outputs, inputs in (
                ("q_proj", queries, c.hidden_size),
                ("k_proj", keys, c.hidden_size),
                ("v_proj", keys, c.hidden_size),
                ("o_proj", c.hidden_size, queries),
            ):
                put(f"{prefix}self_attn.{name}.weight", outputs, inputs)
                put(f"{prefix}self_attn.{name}.bias", outputs)
            put(prefix + "self_attn.sinks", c.num_heads)
            put(prefix + "mlp.router.weight", c.num_experts, c.hidden_size)
            put(prefix + "mlp.router.bias", c.num_experts)
            put_experts(prefix + "mlp.experts.gate_up_proj", 2 * c.intermediate_size, c.hidden_size)
            put_experts(prefix + "mlp.experts.down_proj", c.hidden_size, c.intermediate_size)

    def read(self, name: str) -> torch.Tensor:
        return self.tensors[name]


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return CONFIG


@pytest.fixture(scope="session")
def random_source() -> Callable[..., RandomSource]:
    return RandomSource


@pytest.fixture(scope="session")
def weights() -> Weights:
    return load_weights(RandomSource(CONFIG, seed=0), dtype=torch.float32, experts="expanded")


class Sequences:
    """Several token sequences over one PagedKV, stepped by hand as an engine would.

    Pages are handed out in shuffled order. Memory starts as NaN, window pages turn to NaN again when they
    fall out of the window, and their table entries to an id that does not exist: reading any of it shows.
    """

    def __init__(self, weights: Weights, config: ModelConfig, tokens: list[torch.Tensor], page: int = 4):
        self.weights, self.config, self.tokens, self.page = weights, config, tokens, page
        logical = -(-max(len(row) for row in tokens) // page)
        total = logical * len(tokens)
        self.kv = PagedKV.allocate(config, total, total, page, weights.dtype)
        for pool in self.kv.pools:
            pool.fill_(torch.nan)
        generator = torch.Generator().manual_seed(9)
        shape = (len(tokens), logical)
        self.full = torch.randperm(total, generator=generator).view(shape).int()
        self.window = torch.randperm(total, generator=generator).view(shape).int()
        self.done = [0] * len(tokens)
        self.operations: Operations | None = None  # the fastest unless set
        self.wanted: torch.Tensor | None = None  # which of a step's positions; all unless set

    def step(self, work: dict[int, int]) -> dict[int, torch.Tensor]:
        """Row → how many more positions; returns row → logits, [count, V] or [0 or 1, V] of those wanted."""
        for row in work:
            self._drop_stale(row)
        rows = list(work)
        counts = tuple(work.values())
        spans = [range(self.done[row], self.done[row] + work[row]) for row in rows]
        starts = torch.tensor([0, *counts]).cumsum(0)
        contexts = tuple(span.stop for span in spans)
        inputs = StepInputs(
            tokens=torch.cat([self.tokens[row][list(span)] for row, span in zip(rows, spans, strict=True)]),
            positions=torch.cat([torch.tensor(list(span)) for span in spans]),
            query_starts=starts.int(),
            context_lens=torch.tensor(contexts, dtype=torch.int32),
            full_pages=self.full[rows],
            window_pages=self.window[rows],
            sample_at=torch.arange(sum(counts)) if self.wanted is None else self.wanted,
            counts=counts,
            contexts=contexts,
        )
        logits = forward(self.weights, self.config, self.kv, inputs, self.operations)
        for row in rows:
            self.done[row] += work[row]
        owned = [sum(bool(a <= at < b) for at in inputs.sample_at) for a, b in pairwise(starts.tolist())]
        return dict(zip(rows, logits.split(owned), strict=True))

    def _drop_stale(self, row: int) -> None:
        oldest = max(0, self.done[row] - self.config.window + 1)
        for logical in range(oldest // self.page):
            if (page := int(self.window[row, logical])) < 10**6:
                for pool, sliding in zip(self.kv.pools, self.config.sliding, strict=True):
                    if sliding:
                        pool[:, :, page] = torch.nan
                self.window[row, logical] = 10**6


@pytest.fixture(scope="session")
def sequences() -> type[Sequences]:
    return Sequences
