"""How much of the GPU's memory this process may take, how much it has taken, and what is kept apart in it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from mosso.core.errors import UsageError
from mosso.engine.settings import MIB
from mosso.model.gpu_plan import CONTEXT_BYTES


def bound_bytes(asked: float, total: int) -> int:
    """--gpu-memory in bytes: up to 1 it is a share of `total`."""
    return min(total, int(asked * total if asked <= 1 else asked))


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of one device. What other processes take is assumed to stay as it was when this was made."""

    device: torch.device
    total: int
    bound: int  # what this process may take in all
    free_at_start: int  # once our own context was there, had torch held nothing by then

    @classmethod
    def open(cls, device: torch.device, asked: float) -> DeviceMemory:
        """Raises UsageError when others have taken too much."""
        free, total = torch.cuda.mem_get_info(device)
        available = free + torch.cuda.memory_reserved(device)
        bound = bound_bytes(asked, total)
        if bound > available + CONTEXT_BYTES:
            raise UsageError(
                f"--gpu-memory asks for {bound / MIB:,.0f} MiB of {device}, "
                f"which has {free / MIB:,.0f} of its {total / MIB:,.0f} MiB free"
            )
        return cls(device, total, bound, available)

    def used(self) -> int:
        """What this process takes now, its context (by estimate) included."""
        torch.cuda.synchronize(self.device)
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.free_at_start - free + CONTEXT_BYTES

    def enforce(self, later: int) -> None:
        """Let torch allocate no more than what the bound leaves beside all that is not torch's, and beside
        `later` bytes that the driver will still take."""
        other = self.used() - torch.cuda.memory_reserved(self.device) + later
        share = max(0.0, min(1.0, (self.bound - other) / self.total))
        torch.cuda.set_per_process_memory_fraction(share, self.device)


class LastingMemory:
    """Where pages and graphs lie, apart from what steps allocate and free.

    Otherwise torch would give pages the memory that steps were measured to need; what is left would lie in
    several places, and not hold the same tensors.
    """

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._pages = torch.cuda.MemPool() if cuda else None
        self.graphs = torch.cuda.graph_pool_handle() if cuda else None
        self.stream = torch.cuda.Stream(device) if cuda else None
        """It captures all graphs, as memory belongs to a stream."""

    def pages(self) -> AbstractContextManager[None]:
        """What this thread allocates within it lies with the pages."""
        return nullcontext() if self._pages is None else torch.cuda.use_mem_pool(self._pages)
