"""Checkpoints of any size with random weights: for tests and for benchmarks, where values mean nothing.

Matrices have variance 1 / fan-in and norms are near one, so that every product keeps its input's scale. The
two that write to the residual stream are weaker by RESIDUAL_GAIN: else what a layer adds for all tokens alike
would drown the token's own embedding, and deep routers would choose the same few experts for every token. So
activations stay near unit size, and experts are chosen almost uniformly, through all layers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from mosso.checkpoint.config import ExpertsFormat
from mosso.checkpoint.schema import TensorSpec, expected_tensors, total_bytes
from mosso.checkpoint.toy_tokenizer import toy_generation, toy_tokenizer
from mosso.checkpoint.writer import SHARD_BYTES, write_checkpoint
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig
from mosso.core.errors import UsageError

Size = Literal["20b", "120b", "tiny"]
Report = Callable[[int, int], None]  # bytes done, bytes in all

TINY = ModelConfig(
    num_layers=4,
    num_experts=8,
    experts_per_token=4,
    hidden_size=64,
    intermediate_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=512,
    window=128,
    max_context=131_072,
)
SIZES: dict[Size, ModelConfig] = {"20b": GPT_OSS_20B, "120b": GPT_OSS_120B, "tiny": TINY}

RESIDUAL_GAIN = 1 / 8  # a power of two: MXFP4 scales are
_CHUNK = 1 << 24  # elements drawn at once: the float32 copy of a chunk is 64 MiB
_FP4_STD = 2.93  # of the 16 MXFP4 values, equally likely


def write_random(
    out: str | Path,
    size: Size | ModelConfig,
    *,
    seed: int = 0,
    layers: int | None = None,
    experts_format: ExpertsFormat = "mxfp4",
    device: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    report: Report | None = None,
) -> ModelConfig:
    """Write a full checkpoint folder (weights, configs, a toy tokenizer.json) and return its config.

    `layers` keeps the shapes and changes only the depth. Equal arguments give equal bytes on one kind of
    device; a tensor does not depend on the others. device: None takes a GPU when there is one. Holds about
    one shard in memory. Raises UsageError as config_of does, and for a folder that has weights already or
    cannot be written.
    """
    config = config_of(size, layers)
    write_checkpoint(
        out,
        config,
        random_tensors(config, seed, experts_format, torch.device(device or _best_device()), report),
        experts_format=experts_format,
        generation=toy_generation(config.vocab_size),
        files={"tokenizer.json": toy_tokenizer(config.vocab_size)},
        shard_bytes=shard_bytes,
        overwrite=overwrite,
    )
    return config


def config_of(size: Size | ModelConfig, layers: int | None = None) -> ModelConfig:
    """Raises UsageError for an unknown size and for more layers than it has."""
    if not isinstance(size, ModelConfig) and size not in SIZES:
        raise UsageError(f"there is no size {size!r}; choose one of {', '.join(SIZES)}")
    config = size if isinstance(size, ModelConfig) else SIZES[size]
    if layers is None:
        return config
    if not 1 <= layers <= config.num_layers:
        raise UsageError(f"--layers must be 1 to {config.num_layers}, all that the model has; it is {layers}")
    return replace(config, num_layers=layers, sliding=())


def random_tensors(
    config: ModelConfig,
    seed: int = 0,
    experts_format: ExpertsFormat = "mxfp4",
    device: torch.device | None = None,
    report: Report | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the schema by name, on the CPU, one at a time."""
    done, total = 0, total_bytes(config, experts_format)
    for name, spec in expected_tensors(config, experts_format).items():
        yield name, _draw(name, spec, config, seed, device or torch.device("cpu"))
        done += spec.nbytes
        if report is not None:
            report(done, total)


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _draw(name: str, spec: TensorSpec, config: ModelConfig, seed: int, device: torch.device) -> torch.Tensor:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    if name.endswith("_blocks"):
        return _random_bytes(spec.shape, generator)
    if name.endswith("_scales"):
        fan_in = config.hidden_size if "gate_up" in name else config.intermediate_size
        return _random_scales(spec.shape, _gain(name) / math.sqrt(fan_in), generator)
    mean = 1.0 if spec.kind == "norm" else 0.0
    return _random_normal(spec.shape, mean, _std(name, spec), generator)


def _std(name: str, spec: TensorSpec) -> float:
    if spec.kind == "embedding" or name.endswith("sinks"):
        return 1.0
    if len(spec.shape) == 1 or name.endswith("bias"):
        return 0.02
    return _gain(name) / math.sqrt(
        spec.shape[1]
    )  # the input axis: of [out, in], and of the upcast [E, in, out]


def _gain(name: str) -> float:
    return RESIDUAL_GAIN if "o_proj" in name or "down_proj" in name else 1.0


def _random_normal(
    shape: tuple[int, ...], mean: float, std: float, generator: torch.Generator
) -> torch.Tensor:
    """BF16, drawn by chunks so that the float32 numbers never exist all at once."""
    result = torch.empty(math.prod(shape), dtype=torch.bfloat16)
    for chunk in result.split(_CHUNK):
        drawn = torch.randn(chunk.numel(), generator=generator, device=generator.device)
        chunk.copy_(drawn.mul_(std).add_(mean))
    return result.view(shape)


def _random_bytes(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Uniform bytes: pairs of uniform FP4 codes. Drawn eight at a time; a last dimension of 16 divides so."""
    result = torch.empty(math.prod(shape) // 8, dtype=torch.int64)
    for chunk in result.split(_CHUNK):
        drawn = torch.empty(chunk.numel(), dtype=torch.int64, device=generator.device)
        chunk.copy_(drawn.random_(-(1 << 63), None, generator=generator))
    return result.view(torch.uint8).view(shape)


def _random_scales(shape: tuple[int, ...], std: float, generator: torch.Generator) -> torch.Tensor:
    """The two exponents around the one that would give the values the standard deviation `std`."""
    low = math.floor(127 + math.log2(std / _FP4_STD))
    drawn = torch.randint(
        low, low + 2, shape, generator=generator, device=generator.device, dtype=torch.uint8
    )
    return drawn.cpu()
