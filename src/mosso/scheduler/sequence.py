"""One request as the scheduler sees it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mosso.core.requests import FinishReason, Request

Rank = tuple[int, int]  # (priority, arrival); the lower one is served first, and no two are equal


@dataclass(slots=True, eq=False)
class Sequence:
    """A request, its known tokens, and what it holds while it has a row.

    tokens[: computed] have KV once the planned steps have run. `in_flight` tokens are being sampled by
    planned steps and not known here yet; they follow the known ones.
    """

    request: Request
    rank: Rank
    limit: int  # tokens, prompt and generated, at which it ends
    tokens: list[int]
    in_flight: int = 0
    finish: FinishReason | None = None

    row: int | None = None
    computed: int = 0
    full_pages: list[int] = field(default_factory=list)  # for logical pages 0, 1, ...
    window_pages: deque[int] = field(default_factory=deque)  # for logical pages window_first, ...
    window_first: int = 0

    keys: list[bytes] = field(default_factory=list)  # of the pages that known tokens complete
    published: int = 0  # pages of the current row that have been offered to the prefix cache
    cached_tokens: int | None = None  # prompt tokens that its first start found; None before it
    announced: bool = False  # a first event has been sent

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def total(self) -> int:
        return len(self.tokens) + self.in_flight

    @property
    def remaining(self) -> int:
        """Positions to compute before the next token can be sampled; 0 when no further one is wanted."""
        total = len(self.tokens) + self.in_flight
        return total - self.computed if total < self.limit else 0
