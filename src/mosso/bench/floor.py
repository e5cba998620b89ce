"""The least time that a step can take: the bytes it must read over the memory's measured speed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from mosso.checkpoint.config import ExpertsFormat
from mosso.core.config import ModelConfig

MXFP4_BYTES = 17 / 32  # a 4-bit value and its share of the scale byte


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes an element of the dense and of the expert matrices."""

    dense: float
    expert: float


def stored_bytes(experts_format: ExpertsFormat) -> WeightBytes:
    """As the checkpoint stores them: dense weights in BF16, experts in MXFP4 or BF16."""
    return WeightBytes(dense=2, expert=MXFP4_BYTES if experts_format == "mxfp4" else 2)


def decode_bytes(config: ModelConfig, batch: int, context: int, weights: WeightBytes, kv_bytes: int) -> float:
    """Bytes that one decode step of `batch` rows at `context` positions must read, each weight once.

    Experts: a row picks k of E, so b rows touch E·(1 − (1 − k/E)^b) of them on average if routing is uniform.
    """
    c = config
    attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads)
    touched = c.num_experts * (1 - (1 - c.experts_per_token / c.num_experts) ** batch)
    experts = touched * 3 * c.hidden_size * c.intermediate_size
    dense = c.num_layers * (attention + c.hidden_size * c.num_experts) + c.hidden_size * c.vocab_size
    seen = sum(min(context, c.window) if sliding else context for sliding in c.sliding)
    kv = batch * seen * 2 * c.num_kv_heads * c.head_dim * kv_bytes
    return dense * weights.dense + c.num_layers * experts * weights.expert + kv


def cuda_bandwidth(megabytes: int = 1024, runs: int = 7) -> float:
    """Bytes a second that the GPU reads from its memory, measured now: the best of a few sums."""
    data = torch.ones(megabytes << 18, device="cuda")
    best = float("inf")
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        data.sum()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3)
    return data.nbytes / best


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
