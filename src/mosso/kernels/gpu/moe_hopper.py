"""The MXFP4 products of moe.py by a kernel in CUDA C++, for Hopper and lists of middle length.

There Triton's kernels unpack weights and multiply in turn; this one has warps that only load, and deals the
work out in equal shares to all multiprocessors (moe_hopper.cu says how). It reads and writes what they do, in
bfloat16, and moe.py's wrappers take it where it is faster: the twins there define it too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mosso.core.config import SWIGLU_ALPHA
from mosso.kernels.gpu import cuda_program, launch
from mosso.kernels.gpu.cuda_program import CudaProgram
from mosso.kernels.gpu.launch import Chip
from mosso.kernels.gpu.mxfp4_layout import CHUNK, ROWS
from mosso.kernels.gpu.router import Routing

if TYPE_CHECKING:
    from mosso.kernels.gpu.moe import GpuExperts

SOURCE = "moe_hopper.cu"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a product is cut."""

    pairs: int  # of a block
    groups: int  # warpgroups that multiply; each has 64 rows of weights
    depth: int  # chunks of the inner axis in a stage
    stages: int


# By the width of their blocks; measured on an H200 (docs/facts.md).
TUNINGS = (
    Tuning(pairs=16, groups=3, depth=5, stages=4),
    Tuning(pairs=32, groups=3, depth=5, stages=3),
    Tuning(pairs=48, groups=3, depth=3, stages=5),
    Tuning(pairs=64, groups=3, depth=3, stages=4),
    Tuning(pairs=96, groups=2, depth=3, stages=4),
)
SHORTEST, LONGEST = 6, 80  # mean lists, in pairs, that this kernel is faster for
ROOM = 1.5  # a block's width against the mean list: most lists are then one block


def runs(device: torch.device) -> bool:
    """Whether the kernel can be had on a device: a Hopper, where there is NVRTC to compile for it."""
    return launch.wgmma(device) and cuda_program.compiler() is not None


def tuning(tokens: int, top_k: int, experts: int, chip: Chip) -> Tuning | None:
    """By the mean length of an expert's list; None where Triton's kernels are the better ones."""
    mean = tokens * top_k / experts
    if chip.capability != launch.HOPPER or not SHORTEST <= mean <= LONGEST:
        return None
    return next((each for each in TUNINGS if each.pairs >= ROOM * mean), TUNINGS[-1])


def gate_up_choice(x: torch.Tensor, experts: GpuExperts, routing: Routing) -> Tuning | None:
    """How this kernel would compute moe.gate_up; None where it cannot or had better not."""
    return _choice(x, experts.gate_up_words, experts.gate_up_bias, routing)


def down_choice(
    act: torch.Tensor, experts: GpuExperts, routing: Routing, dtype: torch.dtype | None = None
) -> Tuning | None:
    """How this kernel would compute moe.down; None where it cannot or had better not."""
    if dtype not in (None, torch.bfloat16):
        return None
    return _choice(act, experts.down_words, experts.down_bias, routing)


def gate_up(
    x: torch.Tensor, experts: GpuExperts, routing: Routing, limit: float, tuning: Tuning | None = None
) -> torch.Tensor:
    """As moe.gate_up, for what `gate_up_choice` does not refuse; tuning None: its choice."""
    tuning = tuning or gate_up_choice(x, experts, routing)
    assert tuning is not None
    out = torch.empty(routing.chosen.numel(), experts.intermediate_size, dtype=x.dtype, device=x.device)
    weights = experts.gate_up_words, experts.gate_up_scales, experts.gate_up_bias
    _launch("gate_up", tuning, x, weights, routing, out, limit)
    return out


def down(
    act: torch.Tensor,
    experts: GpuExperts,
    routing: Routing,
    dtype: torch.dtype | None = None,
    tuning: Tuning | None = None,
) -> torch.Tensor:
    """As moe.down, for what `down_choice` does not refuse; one part a pair."""
    tuning = tuning or down_choice(act, experts, routing, dtype)
    assert tuning is not None
    out = torch.empty(*routing.chosen.shape, experts.hidden_size, dtype=act.dtype, device=act.device)
    weights = experts.down_words, experts.down_scales, experts.down_bias
    _launch("down", tuning, act, weights, routing, out, 0.0)
    return out


def _choice(x: torch.Tensor, words: torch.Tensor, bias: torch.Tensor, routing: Routing) -> Tuning | None:
    (experts, tiles, chunks), (tokens, top_k) = words.shape[:3], routing.chosen.shape
    if not runs(x.device) or x.dtype != torch.bfloat16:
        return None
    if experts % 32 or x.shape[1] != chunks * CHUNK or bias.shape[1] != tiles * ROWS:
        return None  # weights that are padded, or lists that no whole warp counts
    found = tuning(tokens, top_k, experts, launch.chip(x.device))
    return None if found is None or chunks % found.depth else found


def _launch(
    product: str,
    tuning: Tuning,
    x: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],  # words, scales, bias
    routing: Routing,
    out: torch.Tensor,
    limit: float,
) -> None:
    chip, bias = launch.chip(x.device), weights[2]
    code = program(product, tuning, *bias.shape, x.shape[1], routing.chosen.shape[1], chip.arch)
    arguments = (x, *weights, routing.lists, routing.counts, routing.shares, out)
    stride = routing.lists.stride(0)
    cuda_program.launch(code, chip.multiprocessors, (*arguments, stride, float(limit)), x.device)


@functools.cache
def program(
    product: str, tuning: Tuning, experts: int, rows: int, columns: int, top_k: int, arch: str
) -> CudaProgram:
    """Of `product` "gate_up" or "down", with experts' weights [rows, columns]."""
    kernel = f"hopper_{product}"
    macros = {
        "KERNEL": kernel,
        "GATE_UP": int(product == "gate_up"),
        "EXPERTS": experts,
        "ROWS": rows,
        "K": columns,
        "TOP": top_k,
        "ALPHA": f"{SWIGLU_ALPHA}f",
        "PAIRS": tuning.pairs,
        "GROUPS": tuning.groups,
        "DEPTH": tuning.depth,
        "STAGES": tuning.stages,
    }
    text = " ".join(f"{name}={value}" for name, value in macros.items())
    return CudaProgram(SOURCE, kernel, text, f"{arch}a")  # a: wgmma belongs to this architecture alone
