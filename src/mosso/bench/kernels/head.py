"""The output head and sampling at the shapes of gpt-oss. The weights, 1.16 GB, are always cold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import inf

import torch

from mosso.bench.floor import rates_here
from mosso.bench.kernels.case import Case
from mosso.kernels.gpu.head import Config, RowConfig, TileConfig, head, head_sample
from mosso.kernels.gpu.sampling import logprobs, restrict, sample_truncated

BANDWIDTH = rates_here().bandwidth  # bytes read in a second
ARITHMETIC = rates_here().operations or inf  # of bfloat16 products in a second
VOCAB_SIZE, HIDDEN = 201088, 2880
EPS = 1e-5
SETTINGS = {  # of sample_truncated: top_k, top_p, min_p
    "off": (0, 1.0, 0.0),
    "top_p": (0, 0.95, 0.0),
    "top_k": (50, 1.0, 0.0),
    "min_p": (0, 1.0, 0.05),
    "top_k top_p": (50, 0.95, 0.0),
}


@dataclass(frozen=True, slots=True)
class Weights:
    head: torch.Tensor
    gain: torch.Tensor


def weights() -> Weights:
    return Weights(
        head=torch.randn(VOCAB_SIZE, HIDDEN, device="cuda", dtype=torch.bfloat16) * (3 * HIDDEN**-0.5),
        gain=torch.ones(HIDDEN, device="cuda"),
    )


def draws(rows: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.full((rows,), temperature, device="cuda"),
        torch.arange(rows, device="cuda"),
        torch.arange(rows, device="cuda", dtype=torch.int32),
    )


def head_floor(rows: int) -> float:
    size = VOCAB_SIZE * HIDDEN * 2
    return max(size / BANDWIDTH, size * rows / ARITHMETIC)


def sample_case(w: Weights, rows: int, config: Config | None = None, temperature: float = 1.0) -> Case:
    h, draw = torch.randn(rows, HIDDEN, device="cuda"), draws(rows, temperature)

    def run() -> object:
        return head_sample(h, w.head, *draw, norm=(w.gain, EPS), config=config)

    name = f"head_sample S={rows}{'' if temperature else ' greedy'}{label(config)}"
    return Case(name, head_floor(rows), run)


def head_case(w: Weights, rows: int) -> Case:
    h = torch.randn(rows, HIDDEN, device="cuda")
    written = rows * VOCAB_SIZE * 4 / BANDWIDTH
    return Case(f"head S={rows}", head_floor(rows) + written, lambda: head(h, w.head, norm=(w.gain, EPS)))


def label(config: Config | None) -> str:
    if config is None:
        return ""
    return " " + " ".join(f"{name}={getattr(config, name)}" for name in config.__slots__)


def truncated_case(rows: int, setting: str) -> Case:
    """Logits whose likeliest hundred hold most of the probability, as in language."""
    logits = torch.randn(rows, VOCAB_SIZE, device="cuda")
    logits[:, ::2000] += torch.randn(rows, len(range(0, VOCAB_SIZE, 2000)), device="cuda").abs() * 3 + 9
    top_k, top_p, min_p = SETTINGS[setting]
    temperature, *noise = draws(rows, 1.0)
    truncation = (
        torch.full((rows,), top_k, device="cuda", dtype=torch.int32),
        torch.full((rows,), top_p, device="cuda"),
        torch.full((rows,), min_p, device="cuda"),
    )
    return Case(
        f"sample_truncated {setting} S={rows}",
        rows * VOCAB_SIZE * 4 / BANDWIDTH,
        lambda: sample_truncated(logits, temperature, *truncation, *noise),
    )


def logprobs_case(rows: int, top: int) -> Case:
    logits = torch.randn(rows, VOCAB_SIZE, device="cuda")
    tokens = torch.arange(rows, device="cuda", dtype=torch.int32)
    return Case(
        f"logprobs top={top} S={rows}",
        rows * VOCAB_SIZE * 4 / BANDWIDTH,
        lambda: logprobs(logits, tokens, top),
    )


def restrict_case(rows: int) -> Case:
    """Masks that forbid every other token: no sector of the logits is left out."""
    logits = torch.randn(rows, VOCAB_SIZE, device="cuda")
    at = torch.arange(rows, device="cuda", dtype=torch.int32)
    masks = torch.full((rows, -(-VOCAB_SIZE // 32)), 0x55555555, device="cuda", dtype=torch.int32)
    size = rows * VOCAB_SIZE * 4 + masks.numel() * 4
    return Case(f"restrict S={rows}", size / BANDWIDTH, lambda: restrict(logits, at, masks))


def cases() -> Iterator[Case]:
    w = weights()
    for rows in (1, 2, 8, 32, 64, 128, 256, 512):
        yield sample_case(w, rows)
    for rows in (1, 64, 512):
        yield sample_case(w, rows, temperature=0.0)
    for rows in (1, 64):
        yield head_case(w, rows)
    for setting, rows in product(SETTINGS, (1, 64, 256)):
        yield truncated_case(rows, setting)
    for top, rows in product((0, 20), (1, 64, 256)):
        yield logprobs_case(rows, top)
    for rows in (1, 64):
        yield restrict_case(rows)


def sweep() -> Iterator[Case]:
    """Choices of the head's tiles; the best ones belong in its `config_for`."""
    w = weights()
    one = [
        RowConfig(block_v, programs, stages, warps)
        for block_v, programs, stages, warps in (
            (4, 2, 3, 4), (4, 3, 3, 4), (4, 6, 3, 4), (4, 2, 4, 4), (4, 4, 2, 4), (4, 6, 2, 4),
            (4, 12, 2, 4), (2, 4, 3, 2), (2, 6, 3, 4), (8, 2, 2, 4), (8, 1, 3, 8), (4, 8, 1, 4),
            (4, 16, 1, 4), (4, 64, 1, 4), (8, 6, 1, 4), (2, 8, 1, 2), (1, 10, 1, 1),
        )
    ]  # fmt: skip
    few = [
        TileConfig(block_v, 16, block_k, stages, warps)
        for block_v, block_k, stages, warps in (
            (64, 64, 4, 4), (64, 64, 5, 4), (64, 64, 8, 4), (64, 128, 3, 4), (64, 128, 4, 4), (128, 64, 4, 4),
            (128, 64, 5, 8), (128, 128, 3, 4), (128, 128, 3, 8), (256, 64, 4, 8),
        )
    ]  # fmt: skip
    some = [
        TileConfig(block_v, 64, block_k, stages, warps)
        for block_v, block_k, stages, warps in (
            (64, 64, 4, 4), (64, 64, 6, 4), (128, 64, 3, 4), (128, 64, 4, 4), (128, 64, 4, 8),
            (128, 64, 8, 8), (128, 128, 2, 4), (128, 128, 4, 8), (256, 64, 3, 8), (256, 64, 5, 8),
        )
    ]  # fmt: skip
    many = [
        TileConfig(block_v, block_s, block_k, stages, warps)
        for block_v, block_s, block_k, stages, warps in (
            (128, 128, 64, 3, 8), (128, 128, 64, 3, 4), (128, 128, 64, 6, 8), (128, 256, 64, 3, 8),
            (128, 256, 64, 4, 8), (256, 128, 64, 3, 8), (256, 128, 64, 4, 8), (128, 128, 128, 3, 8),
            (128, 64, 64, 4, 4), (128, 128, 32, 6, 8),
        )
    ]  # fmt: skip
    for rows, configs in ((1, one), (1, few), (8, few), (64, some), (512, many)):
        for config in configs:
            yield sample_case(w, rows, config)
