"""Stable request rows on the device: known tokens and page tables.

A request keeps its row from its RowStart to its release; each step gathers what it needs by row index, in a
few operations whatever the batch. A sampled token is written where the row's next token belongs, so the
next step reads it like any other, without the host.

    tokens  int64 [rows, max_context + 1]    position → token id
    pages   int32 [2, rows, logical pages]   group (full, window), logical page → page id; stale entries stay
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mosso.core.steps import RowWork, StepPlan
from mosso.model.inputs import StepInputs

FULL, WINDOW = 0, 1


@dataclass(slots=True)
class _PageUpdates:
    """Page-table entries that a plan sets, gathered so that they are written in one operation."""

    at: list[int] = field(default_factory=list)  # flat index into the tables
    ids: list[int] = field(default_factory=list)


class RowTable:
    """Applies plans and gathers inputs. One thread uses it, in the plans' order."""

    def __init__(self, max_rows: int, max_context: int, page_size: int, device: torch.device) -> None:
        self._page_size = page_size
        self._num_logical = -(-max_context // page_size)
        self._device = device
        # Zeros: a step launched behind a failed one reads a token that was never sampled; it must be an id.
        self._tokens = torch.zeros(max_rows, max_context + 1, dtype=torch.int64, device=device)
        self._pages = torch.zeros(2, max_rows, self._num_logical, dtype=torch.int32, device=device)
        self._num_full_pages = [0] * max_rows  # known to a row's table; new ones follow

    def apply(self, plan: StepPlan) -> None:
        """Starts, then the pages that the work appends. A release needs nothing here: the next start of
        its row writes over what it held."""
        updates = _PageUpdates()
        for start in plan.starts:
            self._tokens[start.row, : len(start.tokens)] = self._upload(start.tokens, torch.int64)
            self._num_full_pages[start.row] = 0
            self._set_pages(updates, start.row, start.full_pages, start.window_pages)
        for work in plan.work:
            if work.new_full_pages or work.new_window_pages:
                self._set_pages(updates, work.row, work.new_full_pages, work.new_window_pages)
        if updates.at:
            at, ids = self._upload(updates.at, torch.int64), self._upload(updates.ids, torch.int32)
            self._pages.view(-1).index_copy_(0, at, ids)

    def gather(self, work: Sequence[RowWork]) -> StepInputs:
        """The inputs of a forward pass over `work`, rows in its order."""
        counts = tuple(item.count for item in work)
        contexts = tuple(item.start + item.count for item in work)
        rows = np.array([item.row for item in work])
        ends = np.cumsum(counts)
        total = int(ends[-1])
        first = np.array([item.start for item in work]) - (ends - counts)  # position minus index, by row
        positions = np.arange(total) + np.repeat(first, counts)
        flat = positions + np.repeat(rows * self._tokens.shape[1], counts)
        samples = [end - 1 for end, item in zip(ends, work, strict=True) if item.samples]
        wide = self._upload(np.concatenate((positions, flat, rows, samples)), torch.int64)
        where, at, row_index, sample_at = wide.split((total, total, len(work), len(samples)))
        narrow = self._upload(np.concatenate(([0], ends, contexts)), torch.int32)
        used = -(-max(contexts) // self._page_size)
        pages = self._pages[:, :, :used].index_select(1, row_index)
        return StepInputs(
            tokens=self._tokens.view(-1)[at],
            positions=where,
            query_starts=narrow[: len(work) + 1],
            context_lens=narrow[len(work) + 1 :],
            full_pages=pages[FULL],
            window_pages=pages[WINDOW],
            sample_at=sample_at,
            counts=counts,
            contexts=contexts,
        )

    def append(self, rows: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> None:
        """Write sampled tokens [S] at `positions` [S] of `rows` [S]: known from now on, on the device."""
        self._tokens.index_put_((rows, positions), tokens)

    def probe(self) -> None:
        """Raises if the device does not answer any more."""
        self._tokens[0, 0].item()

    def known(self, rows: torch.Tensor, length: int) -> torch.Tensor:
        """The first `length` tokens of `rows` [N] → int64 [N, length]; past a row's end it is garbage."""
        return self._tokens[:, :length].index_select(0, rows)

    def _set_pages(
        self, updates: _PageUpdates, row: int, full: Sequence[int], window: Sequence[tuple[int, int]]
    ) -> None:
        max_rows = len(self._num_full_pages)
        first = (FULL * max_rows + row) * self._num_logical + self._num_full_pages[row]
        updates.at.extend(range(first, first + len(full)))
        updates.ids.extend(full)
        self._num_full_pages[row] += len(full)
        base = (WINDOW * max_rows + row) * self._num_logical
        for logical, page in window:
            updates.at.append(base + logical)
            updates.ids.append(page)

    def _upload(self, values: Sequence[int] | np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(values, dtype=dtype).to(self._device, non_blocking=True)
