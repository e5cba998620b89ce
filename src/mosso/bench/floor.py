"""The least time that a step can take: the bytes it must read, or the operations it must do, at full rate."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from mosso.checkpoint.config import ExpertsFormat
from mosso.core.config import ModelConfig

MXFP4_BYTES = 17 / 32  # a 4-bit value and its share of the scale byte


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine does in a second at best. `operations` is None where it was not measured."""

    bandwidth: float  # bytes read from memory
    operations: float | None = None  # additions and multiplications of bfloat16 products


H100 = Rates(3.0e12, 7.6e14)
H200 = Rates(4.4e12, 7.7e14)


def gpu_rates(device: str) -> Rates:
    """As measured on GPUs of that name; one that nobody measured is held to what an H100 does."""
    return H200 if "H200" in device else H100


def rates_here() -> Rates:
    """Of this machine's GPU."""
    return gpu_rates(torch.cuda.get_device_name() if torch.cuda.is_available() else "none")


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes an element of the dense and of the expert matrices."""

    dense: float
    expert: float


def stored_bytes(experts_format: ExpertsFormat) -> WeightBytes:
    """As the checkpoint stores them: dense weights in BF16, experts in MXFP4 or BF16."""
    return WeightBytes(dense=2, expert=MXFP4_BYTES if experts_format == "mxfp4" else 2)


@dataclass(frozen=True, slots=True)
class Floor:
    """Least seconds of a model's steps on one machine."""

    config: ModelConfig
    weights: WeightBytes
    kv_bytes: int  # an element of the KV cache
    rates: Rates

    def decode(self, batch: int, context: int) -> float:
        """One step of `batch` rows, each at `context` positions."""
        read = decode_bytes(self.config, batch, context, self.weights, self.kv_bytes)
        done = decode_operations(self.config, batch, context)
        return max(read / self.rates.bandwidth, self._seconds(done))

    def prefill_rate(self, prompt: int) -> float | None:
        """Prompt tokens a second at most, in batches so large that reading weights costs nothing."""
        if self.rates.operations is None:
            return None
        return 1 / self._seconds(prefill_operations(self.config, prompt))

    def _seconds(self, operations: float) -> float:
        return operations / self.rates.operations if self.rates.operations else 0.0


def decode_bytes(config: ModelConfig, batch: int, context: int, weights: WeightBytes, kv_bytes: int) -> float:
    """Bytes that one decode step of `batch` rows at `context` positions must read, each weight once.

    Experts: a row picks k of E, so b rows touch E·(1 − (1 − k/E)^b) of them on average if routing is uniform.
    """
    c = config
    attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads)
    touched = c.num_experts * (1 - (1 - c.experts_per_token / c.num_experts) ** batch)
    experts = touched * 3 * c.hidden_size * c.intermediate_size
    dense = c.num_layers * (attention + c.hidden_size * c.num_experts) + c.hidden_size * c.vocab_size
    kv = batch * _seen(c, context) * 2 * c.num_kv_heads * c.head_dim * kv_bytes
    return dense * weights.dense + c.num_layers * experts * weights.expert + kv


def decode_operations(config: ModelConfig, batch: int, context: int) -> float:
    """Additions and multiplications of one decode step of `batch` rows at `context` positions."""
    head = config.hidden_size * config.vocab_size
    return batch * (2 * (_active(config) + head) + _attention_operations(config, _seen(config, context)))


def prefill_operations(config: ModelConfig, prompt: int) -> float:
    """Of one prompt token, on average; the head runs once a prompt and is left out."""
    return 2 * _active(config) + _attention_operations(config, _seen(config, prompt / 2))


def _seen(config: ModelConfig, context: float) -> float:
    """Positions that a token at `context` attends to, summed over the layers."""
    return sum(min(context, config.window) if sliding else context for sliding in config.sliding)


def _active(config: ModelConfig) -> int:
    """Weights that every token is multiplied by, the head's aside."""
    c = config
    attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads)
    experts = c.experts_per_token * 3 * c.hidden_size * c.intermediate_size
    return c.num_layers * (attention + experts + c.num_experts * c.hidden_size)


def _attention_operations(config: ModelConfig, seen: float) -> float:
    return seen * config.num_heads * config.head_dim * 4


def read_bandwidth(threads: int, megabytes: int = 512, runs: int = 7) -> float:
    """Bytes a second that `threads` CPU threads read from memory, measured now: the median of a few sums."""
    torch.set_num_threads(threads)
    data = torch.ones(megabytes << 18)
    data.sum()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        data.sum()
        times.append(time.perf_counter() - start)
    return data.nbytes / median(times)
