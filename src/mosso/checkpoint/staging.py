"""Bytes of a checkpoint's files onto a device, by many threads at once.

Each thread has a buffer of its own: it reads into it, copies it to the device, and lets the job place what
came. On CUDA the buffer is pinned and has a counterpart on the device; reads, copies (each thread's on a
stream of its own) and what jobs compute (all on the caller's stream) overlap. Threads, not processes: reads
and copies hold no interpreter lock. On the CPU there is only the buffer.

Memory beyond what jobs allocate themselves: threads × the largest job, on the host and on the device.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import torch

from mosso.checkpoint.reader import Checkpoint

JOB_BYTES = 32 << 20  # good for a job: long enough for full speed, short enough to overlap
MOST_THREADS = 10  # a core copies 5 to 10 GB/s out of the page cache; PCIe 5 takes 50
_ALIGNMENT = 256  # of a part within the buffer: any dtype may be read there


@dataclass(frozen=True, slots=True)
class Part:
    """`nbytes` of a tensor, from its byte `start` on."""

    name: str
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """Parts that are needed together, and what to do with them.

    `place` gets the bytes of each part (uint8, on the device), which it must not keep. Calls never overlap.
    """

    parts: tuple[Part, ...]
    place: Callable[..., None]

    @property
    def starts(self) -> list[int]:
        """Where each part begins in the buffer, and where the last one ends."""
        return [0, *accumulate(-(-part.nbytes // _ALIGNMENT) * _ALIGNMENT for part in self.parts)]


def stage(
    checkpoint: Checkpoint, jobs: Sequence[Job], device: torch.device, threads: int | None = None
) -> None:
    """Do all jobs, in any order; returns when what they placed is there.

    Raises the first error of a read or a job, after the jobs under way have ended.
    """
    count = min(len(jobs), threads or min(MOST_THREADS, os.cpu_count() or 1))
    nbytes = max((job.starts[-1] for job in jobs), default=0)
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    placing, failed = threading.Lock(), threading.Event()

    def work() -> None:
        # Inference mode, for whoever calls from within it: its tensors can be written only there.
        with torch.inference_mode():
            lane = _Lane(nbytes) if stream is None else _CudaLane(nbytes, stream)
            while not failed.is_set():
                try:
                    lane.run(waiting.get_nowait(), checkpoint, placing)
                except queue.Empty:
                    break
                except BaseException:
                    failed.set()
                    raise

    with ThreadPoolExecutor(max(1, count), thread_name_prefix="staging") as pool:
        workers = [pool.submit(work) for _ in range(count)]
    if stream is not None:
        stream.synchronize()  # here, not at some later launch, errors of the device show
    for worker in workers:
        worker.result()


class _Lane:
    """A thread's buffer, where the device is the host."""

    def __init__(self, nbytes: int) -> None:
        self._host = self._buffer(nbytes)
        self._bytes = memoryview(self._host.numpy())  # type: ignore[arg-type]  # numpy's stubs on 3.11

    def _buffer(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu")

    def run(self, job: Job, checkpoint: Checkpoint, placing: threading.Lock) -> None:
        starts = job.starts
        for part, start in zip(job.parts, starts, strict=False):
            checkpoint.read_into(part.name, self._bytes[start : start + part.nbytes], part.start)
        self._deliver(job, starts, placing)

    def _deliver(self, job: Job, starts: list[int], placing: threading.Lock) -> None:
        with placing:
            job.place(*_slices(self._host, job, starts))


class _CudaLane(_Lane):
    """A pinned buffer and its counterpart on the device.

    Invariant: `_placed` is recorded behind the last reader of both; once it has passed, both may be written.
    """

    def __init__(self, nbytes: int, stream: torch.cuda.Stream) -> None:
        torch.cuda.set_device(stream.device)  # of this thread: pinning opens the current device
        super().__init__(nbytes)
        self._stream = stream
        self._device = torch.empty(nbytes, dtype=torch.uint8, device=stream.device)
        self._copies = torch.cuda.Stream(stream.device)
        self._copies.wait_stream(stream)  # which may still use what the allocator has just given us
        self._placed = torch.cuda.Event()

    def _buffer(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)

    def run(self, job: Job, checkpoint: Checkpoint, placing: threading.Lock) -> None:
        self._placed.synchronize()
        super().run(job, checkpoint, placing)

    def _deliver(self, job: Job, starts: list[int], placing: threading.Lock) -> None:
        with torch.cuda.stream(self._copies):
            self._device[: starts[-1]].copy_(self._host[: starts[-1]], non_blocking=True)
        with placing, torch.cuda.stream(self._stream):
            self._stream.wait_stream(self._copies)
            job.place(*_slices(self._device, job, starts))
            self._placed.record(self._stream)


def _slices(buffer: torch.Tensor, job: Job, starts: list[int]) -> list[torch.Tensor]:
    return [buffer[start : start + part.nbytes] for part, start in zip(job.parts, starts, strict=False)]
