"""Tickets: how the last of several programs knows that the others are done."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

TICKETS = 4096


@functools.cache
def tickets(device: torch.device) -> torch.Tensor:
    """int32 [TICKETS] of zeros, which every kernel leaves zero.

    One set serves all kernels of a stream, since each touches it only when the ones before have ended; two
    streams must not use it at once. Made on first use, which must not be inside a graph capture.
    """
    assert device.type != "cuda" or not torch.cuda.is_current_stream_capturing()
    return torch.zeros(TICKETS, dtype=torch.int32, device=device)


@triton.jit
def is_last(ticket, programs):
    """Whether this is the last of `programs` to come here; it sees all that the others stored before.

    What others stored must be loaded with cache_modifier ".cg", past the multiprocessor's own cache.
    """
    tl.debug_barrier()  # every thread's stores before the one thread's release
    last = tl.atomic_add(ticket, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.store(ticket, 0)
    return last
