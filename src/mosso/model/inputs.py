"""The inputs of one paged forward pass, as the engine gathers them on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class StepInputs:
    """T tokens of R rows, concatenated: row r owns tokens query_starts[r] .. query_starts[r+1] - 1.

    The host copies (`counts`, `contexts`) say the same as the tensors, for code that must branch.
    """

    tokens: torch.Tensor  # int64 [T]
    positions: torch.Tensor  # int64 [T]
    query_starts: torch.Tensor  # int32 [R + 1]
    context_lens: torch.Tensor  # int32 [R], positions with KV after this step: start + count
    full_pages: torch.Tensor  # int32 [R, P], logical page → page id of the full group; the rest is never read
    window_pages: torch.Tensor  # int32 [R, P], the same for the window group; stale entries are never read
    sample_at: torch.Tensor  # int64 [S], indices into T whose logits are wanted
    counts: tuple[int, ...]
    contexts: tuple[int, ...]
