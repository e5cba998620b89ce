"""The constraints of the device's rows, advanced token by token, and their masks.

A constraint moves on as soon as its row's token is drawn, in threads of its own, while the next step is
computed: masks are off the critical path, and a constrained row runs in every step like any other. Its state
is a function of the row's tokens: a row that starts again after a preemption begins with those it has.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from mosso.core.constraints import Constrainer, TokenConstraint
from mosso.core.errors import MossoError
from mosso.core.steps import RowStart

_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _Stand:
    """A constraint and the mask of its next token."""

    constraint: TokenConstraint
    mask: bytes | None


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the constrained rows of a batch may draw."""

    at: tuple[int, ...] = ()  # indices in the batch
    tokens: torch.Tensor | None = None  # bool [len(at), V], in the order of `at`
    failures: tuple[tuple[int, str], ...] = ()  # (row, why): no mask can be had


class ConstrainedRows:
    """Used by the sampler's thread, in the plans' order. A row's next stand depends on its last one only."""

    def __init__(self, constrainer: Constrainer) -> None:
        self._constrainer = constrainer
        self._stands: dict[int, Future[_Stand]] = {}  # by row
        self._workers = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="masks")

    def start(self, start: RowStart) -> None:
        """Row `start.row` is this request's from now on."""
        self._stands.pop(start.row, None)
        if start.request.constraint is not None:
            self._stands[start.row] = self._workers.submit(self._begin, start)

    def allowed(self, rows: Sequence[int], vocab_size: int) -> Allowed:
        """For the next token of each of `rows`; waits for masks that are not ready."""
        at, masks, failures = [], [], []
        for index, row in enumerate(rows):
            stand = self._stands.get(row)
            if stand is None:
                continue
            try:
                mask = stand.result().mask
            except MossoError as error:
                failures.append((row, error.message))
                del self._stands[row]
                continue
            if mask is not None:  # None: a step beyond the turn's end, whose token is thrown away
                at.append(index)
                masks.append(unpack(mask, vocab_size))
        return Allowed(tuple(at), torch.from_numpy(np.stack(masks)) if masks else None, tuple(failures))

    def drawn(self, rows: Sequence[int], tokens: torch.Tensor) -> None:
        """The rows' constraints move on by their tokens, int64 [S]."""
        constrained = [(index, row) for index, row in enumerate(rows) if row in self._stands]
        for index, row in constrained:
            before = self._stands[row].result()
            self._stands[row] = self._workers.submit(_advance, before.constraint, int(tokens[index]))

    def _begin(self, start: RowStart) -> _Stand:
        assert start.request.constraint is not None
        said = start.tokens[len(start.request.prompt) :]
        constraint = self._constrainer.begin(start.request.constraint, said)
        return _Stand(constraint, constraint.mask())


def _advance(constraint: TokenConstraint, token: int) -> _Stand:
    constraint.consume(token)
    return _Stand(constraint, constraint.mask())


def unpack(mask: bytes, vocab_size: int) -> np.ndarray:
    """bool [vocab_size] of a mask in the protocol's order; it may be longer."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=vocab_size, bitorder="little")
    return bits.view(np.bool_)
