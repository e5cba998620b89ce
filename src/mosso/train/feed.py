"""Training batches, made by worker processes ahead of the device.

Worker w draws examples by its own seed and packs them; batch i comes from worker i mod W. So the order of
batches depends on the seed alone, not on which worker is fast.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch

from mosso.core.errors import MossoError
from mosso.train.packing import Rows
from mosso.train.production import FeedSettings, Source, make_rows, produce

_AHEAD = 4  # batches that wait for each worker's turn
_PATIENCE = 300.0  # seconds without a batch after which the workers count as dead


class Batch(NamedTuple):
    """Rows on the device: tokens int64, documents and numbers int32, kinds uint8, each [B, S]."""

    tokens: torch.Tensor
    documents: torch.Tensor
    kinds: torch.Tensor
    numbers: torch.Tensor


def to_device(rows: Rows, device: torch.device) -> Batch:
    def move(array: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True).to(dtype)

    return Batch(
        tokens=move(rows.tokens.astype(np.int32), torch.int64),
        documents=move(rows.documents, torch.int32),
        kinds=move(rows.kinds, torch.uint8),
        numbers=move(rows.numbers, torch.int32),
    )


class Feed:
    """An iterator of batches; owns its processes and its thread until `close`."""

    def __init__(self, source: Source, settings: FeedSettings, device: torch.device) -> None:
        self._settings, self._device = settings, device
        self._processes: list[Any] = []
        self._queues: list[Any] = []
        if settings.workers == 0:
            self._local = make_rows(source, settings, 0)
        context = multiprocessing.get_context("spawn")
        for worker in range(settings.workers):
            out = context.Queue(maxsize=_AHEAD)
            process = context.Process(target=produce, args=(source, settings, worker, out), daemon=True)
            process.start()
            self._queues.append(out)
            self._processes.append(process)
        self._ready: queue.Queue[Batch | Exception] = queue.Queue(maxsize=_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        item = self._ready.get(timeout=_PATIENCE)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self._closed.set()
        for process in self._processes:
            process.terminate()
        self._thread.join()
        for process in self._processes:
            process.join()

    def _fill(self) -> None:
        try:
            for rows in self._in_order():
                if not self._put(to_device(rows, self._device)):
                    return
        except Exception as error:  # the thread's only reader is the loop: hand it over
            self._put(error)

    def _put(self, item: Batch | Exception) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def _in_order(self) -> Iterator[Rows]:
        if not self._queues:
            yield from self._local
        for turn in count():
            yield self._take(turn % len(self._queues))

    def _take(self, worker: int) -> Rows:
        waited = 0.0
        while waited < _PATIENCE and not self._closed.is_set():
            try:
                rows: Rows = self._queues[worker].get(timeout=1.0)
            except queue.Empty:
                waited += 1.0
                if self._processes[worker].exitcode is not None:
                    break
                continue
            return rows
        raise MossoError(f"data worker {worker} gave no batch; its own error is above")
