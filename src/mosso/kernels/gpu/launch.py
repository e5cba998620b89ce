"""What every launch of a kernel needs to know of the device.

Three kinds of devices: CUDA; the CPU, where Triton's interpreter runs; and "meta", tensors without memory,
which stand for those of a chip that need not be here: launches on them are noted for compilation (see
compile.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton

from mosso.core.errors import UsageError

HOPPER = (9, 0)
FLOAT8 = (8, 9)  # the first whose conversions Triton knows


@dataclass(frozen=True, slots=True)
class Chip:
    """What launches depend on."""

    capability: tuple[int, int]
    shared_memory: int  # bytes that a program may use
    multiprocessors: int

    @property
    def arch(self) -> str:
        return f"sm_{self.capability[0]}{self.capability[1]}"


CHIPS = {
    chip.arch: chip
    for chip in (
        Chip((8, 0), 163 << 10, 108),  # A100
        Chip((8, 6), 99 << 10, 84),  # A6000, RTX 3090
        Chip((8, 9), 99 << 10, 128),  # L40, RTX 4090
        Chip((9, 0), 227 << 10, 132),  # H100, H200
        Chip((10, 0), 227 << 10, 148),  # B200
        Chip((12, 0), 99 << 10, 170),  # RTX 5090
    )
}
_INTERPRETED = Chip((0, 0), 1 << 20, 4)
_planned: Chip | None = None


def plan_for(chip: Chip | None) -> None:
    """Choose the chip that meta tensors stand for, in this process."""
    global _planned
    _planned = chip


def chip(device: torch.device) -> Chip:
    if device.type == "cuda":
        return _cuda_chip(device.index)
    if device.type == "meta":
        assert _planned is not None, "meta tensors stand for no chip: see plan_for"
        return _planned
    return _INTERPRETED


@functools.cache
def _cuda_chip(index: int | None) -> Chip:
    found = torch.cuda.get_device_properties(index)
    capability = (found.major, found.minor)
    if capability < (8, 0):
        raise UsageError(f"{found.name}: the GPU kernels need compute capability 8.0 or newer")
    shared_memory = found.shared_memory_per_block_optin  # type: ignore[attr-defined]  # not in the stubs
    return Chip(capability, shared_memory, found.multi_processor_count)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
    return bool(triton.knobs.runtime.interpret)


def pdl(device: torch.device) -> bool:
    """Programmatic dependent launch: a kernel may start before the one ahead of it has ended."""
    return ptx(device) and chip(device).capability >= HOPPER


def ptx(device: torch.device) -> bool:
    """Whether kernels may use inline PTX."""
    return device.type != "cpu" and not interpreted()


def wgmma(device: torch.device) -> bool:
    """Whether products run as wgmma, Hopper's own instruction, on while the program goes on."""
    return ptx(device) and chip(device).capability == HOPPER


def num_multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of the device; the interpreter counts as a small chip."""
    return chip(device).multiprocessors


def shared_memory(device: torch.device) -> int:
    """Bytes that a program may use."""
    return chip(device).shared_memory
