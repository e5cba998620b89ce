"""What every launch of a Triton kernel needs to know of the device."""

from __future__ import annotations

import functools

import torch
import triton

HOPPER = (9, 0)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
    return bool(triton.knobs.runtime.interpret)


@functools.cache
def _capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def pdl(device: torch.device) -> bool:
    """Programmatic dependent launch: a kernel may start before the one ahead of it has ended."""
    return device.type == "cuda" and not interpreted() and _capability(device.index) >= HOPPER


def ptx(device: torch.device) -> bool:
    """Whether kernels may use inline PTX."""
    return device.type == "cuda" and not interpreted()


@functools.cache
def num_multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of the device; the interpreter counts as a small chip."""
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count
