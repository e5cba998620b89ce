"""Known tokens and page tables of the device rows, on the GPU.

    tokens  int32 [R, C]      position → token id
    pages   int32 [2, R, P]   group (full, window), logical page → page id; stale entries stay, unread

The last row is scratch: padding runs on it, in a page of each group that nobody else has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mosso.core.steps import StepPlan
from mosso.engine.gpu_inputs import aligned
from mosso.model.gpu_forward import FULL, WINDOW


@dataclass(slots=True)
class PageUpdates:
    """Page-table entries that a plan sets."""

    at: list[int] = field(default_factory=list)  # flat index into the tables
    ids: list[int] = field(default_factory=list)


class GpuTable:
    """All that happens here is ordered in one stream, behind the steps that may still use a row."""

    def __init__(
        self,
        max_rows: int,
        max_context: int,
        page_size: int,
        device: torch.device,
        scratch_pages: tuple[int, int] = (0, 0),
    ) -> None:
        self.scratch = max_rows
        self._num_logical = aligned(-(-max_context // page_size))
        self._device = device
        # Zeros: a step launched behind a failed one reads a token that was never sampled; it must be an id.
        self.tokens = torch.zeros(max_rows + 1, aligned(max_context + 1), dtype=torch.int32, device=device)
        self.pages = torch.zeros(2, max_rows + 1, self._num_logical, dtype=torch.int32, device=device)
        self.use_scratch_pages(*scratch_pages)
        self._num_full_pages = [0] * max_rows  # known to a row's table; new ones follow

    def use_scratch_pages(self, full: int, window: int) -> None:
        """The pages of both groups that the scratch row reads and writes, and no other row."""
        self.pages[FULL, self.scratch] = full
        self.pages[WINDOW, self.scratch] = window

    def apply(self, plan: StepPlan) -> PageUpdates:
        """Uploads the tokens of the requests that start; returns the page-table entries that are to be set.

        A release needs nothing here: the next start of its row writes over what it held.
        """
        updates = PageUpdates()
        for start in plan.starts:
            known = upload(np.array(start.tokens, dtype=np.int32), self._device)
            self.tokens[start.row, : len(known)] = known
            self._num_full_pages[start.row] = 0
            self._set_pages(updates, start.row, start.full_pages, start.window_pages)
        for work in plan.work:
            if work.new_full_pages or work.new_window_pages:
                self._set_pages(updates, work.row, work.new_full_pages, work.new_window_pages)
        return updates

    def set_pages(self, at: torch.Tensor, ids: torch.Tensor) -> None:
        """Write entries, int32 [U] each, on the device."""
        self.pages.view(-1).index_put_((at,), ids)

    def _set_pages(
        self, updates: PageUpdates, row: int, full: Sequence[int], window: Sequence[tuple[int, int]]
    ) -> None:
        first = self._at(FULL, row) + self._num_full_pages[row]
        updates.at.extend(range(first, first + len(full)))
        updates.ids.extend(full)
        self._num_full_pages[row] += len(full)
        base = self._at(WINDOW, row)
        for logical, page in window:
            updates.at.append(base + logical)
            updates.ids.append(page)

    def _at(self, group: int, row: int) -> int:
        return (group * (self.scratch + 1) + row) * self._num_logical


def upload(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on the device, ordered in its stream; the host does not wait for it."""
    host = torch.from_numpy(values)
    if device.type != "cuda":
        return host
    return host.pin_memory().to(device, non_blocking=True)
