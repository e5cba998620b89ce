"""What a worker process of the feed does. Imports no torch: workers start in a moment and stay small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mosso.train.packing import Document, Rows, pack, to_arrays

Source = Callable[[int], Iterator[Document]]  # seed → endless documents; must survive pickling


@dataclass(frozen=True, slots=True)
class FeedSettings:
    seed: int
    rows: int  # of a batch
    length: int  # tokens of a row
    workers: int  # 0: made in the asking process, when asked for


def make_rows(source: Source, settings: FeedSettings, worker: int) -> Iterator[Rows]:
    """The endless batches of one worker."""
    packed = pack(source(settings.seed * 1_000 + worker), settings.length)
    while True:
        yield to_arrays(list(islice(packed, settings.rows)), settings.length)


def produce(source: Source, settings: FeedSettings, worker: int, out: Any) -> None:
    """A worker's life: fill the queue `out` until the process is ended."""
    for rows in make_rows(source, settings, worker):
        out.put(rows)
