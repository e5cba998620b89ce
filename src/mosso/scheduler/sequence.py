"""One request as the scheduler sees it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mosso.core.errors import RequestError
from mosso.core.requests import BACKGROUND, FinishReason, Request

Rank = tuple[int, int]
"""(priority, number); the lower one is served first, and no two are equal. The number says when the sequence
was first started among all others; of one that never was it is its arrival above UNSTARTED."""
UNSTARTED = 1 << 62


def token_limit(request: Request, context: int) -> int:
    """Tokens, prompt and generated, at which the request ends; RequestError if it cannot even begin."""
    prompt, wanted = len(request.prompt), request.sampling.max_tokens
    if not prompt:
        raise RequestError("the prompt has no tokens")
    if wanted < 1:
        raise RequestError(f"max_tokens must be at least 1, not {wanted}", param="max_tokens")
    if prompt >= context:
        raise RequestError(
            f"the prompt has {prompt} tokens; prompt and answer together can have {context}",
            code="context_length_exceeded",
        )
    limit = min(prompt + wanted, context)
    if prompt + len(request.generated) >= limit:
        raise RequestError("all the tokens that the request may have were generated before")
    return limit


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
    added_at: float = 0.0
    queued_seconds: float = 0.0  # until its first start

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def tenant(self) -> str:
        """Whose request it is: service is shared fairly between tenants."""
        return self.request.tenant

    @property
    def share(self) -> tuple[int, str]:
        """Whom its service counts for."""
        return self.request.priority, self.tenant

    @property
    def is_background(self) -> bool:
        """It has idle capacity only."""
        return self.request.priority >= BACKGROUND

    @property
    def started(self) -> bool:
        """It has, or had, a row."""
        return self.rank[1] < UNSTARTED

    @property
    def total(self) -> int:
        return len(self.tokens) + self.in_flight

    @property
    def remaining(self) -> int:
        """Positions to compute before the next token can be sampled; 0 when no further one is wanted."""
        total = len(self.tokens) + self.in_flight
        return total - self.computed if total < self.limit else 0

    def finish_reason(self) -> FinishReason | None:
        """Why the last known token is the last one, or None.

        The sampler keeps stop ids out before min_tokens; one that comes earlier is a token like any other.
        """
        sampling = self.request.sampling
        if self.tokens[-1] in sampling.stop_ids:
            generated = len(self.tokens) - len(self.request.prompt)
            if generated >= sampling.min_tokens:
                return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.limit else None
