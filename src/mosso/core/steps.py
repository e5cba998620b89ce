"""What the scheduler tells the engine to do in one step, and what the step gave.

Overlap: the plan for step N+1 is made while step N runs, so the scheduler does not yet know the tokens
that N samples. A decode row of N+1 therefore carries no token; the engine takes the row's last sampled
token, which never left the device.

KV lives in pages of `page_size` positions, in two groups: `full` pages for the full-attention layers and
`window` pages for the sliding-window layers. Page ids index each group's own pool. A row's page table maps
position // page_size to a page id; window entries that fell out of the window are stale and never read.
"""

from __future__ import annotations

from dataclasses import dataclass

from mosso.core.requests import Request, TokenLogprob


@dataclass(frozen=True, slots=True)
class RowStart:
    """Request `request` takes device row `row` from this step on (first admission or after preemption).

    `tokens` are all its known tokens: the prompt, then what was generated before a preemption. Its first
    `cached` positions already have KV in the pages listed.
    """

    row: int
    request: Request
    tokens: tuple[int, ...]
    cached: int
    full_pages: tuple[int, ...]  # for logical pages 0, 1, ...
    window_pages: tuple[tuple[int, int], ...]  # (logical page, page id)


@dataclass(frozen=True, slots=True)
class RowWork:
    """Row `row` computes positions start .. start + count - 1 in this step.

    Their tokens are the row's known tokens; only the last position of a decode row may be unknown to the
    host (sampled by the step that still runs), and then it is the row's last sampled token.
    `samples`: the last position's logits are sampled; true exactly when the positions reach the row's end.
    """

    row: int
    start: int
    count: int
    samples: bool
    new_full_pages: tuple[int, ...] = ()  # appended to the row's table, in order
    new_window_pages: tuple[tuple[int, int], ...] = ()  # (logical page, page id)


@dataclass(frozen=True, slots=True)
class ThinkingEnd:
    """Row `row`, which goes on, has thought enough: its request is now this one, with a budget of 0.

    `said` is what its turn is known to have said; tokens that are still being sampled follow it.
    """

    row: int
    request: Request
    said: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass. Applied in the order: releases, starts, ends of thinking, work.

    A row is in `work` at most once.
    """

    step: int
    releases: tuple[int, ...] = ()  # rows whose request ended or was preempted
    starts: tuple[RowStart, ...] = ()
    work: tuple[RowWork, ...] = ()
    thinking_ends: tuple[ThinkingEnd, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(item.count for item in self.work)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step sampled: one entry for each RowWork with `samples`, in the plan's order."""

    step: int
    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob | None, ...]  # None where the request did not ask
    failures: tuple[
        tuple[int, str], ...
    ] = ()  # (row, why): its request's constraint cannot go on; the token means nothing
