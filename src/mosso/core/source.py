"""The one seam between text and tokens.

One process, one GPU, eight GPUs or a cluster differ only in which object implements it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from mosso.core.requests import EngineLimits, EngineStats, Request, TokenEvent


class TokenSource(Protocol):
    """Continues token sequences."""

    @property
    def limits(self) -> EngineLimits:
        """Raises UnavailableError before the engine is ready."""
        ...

    def stream(self, request: Request) -> AsyncIterator[TokenEvent]:
        """The events of one request, the last one with `finish`.

        Closing the iterator early (aclose, or cancelling the task that reads it) aborts the request and
        frees what it held. Raises RequestError for a request that can never fit, OverloadedError when the
        queue is full, UnavailableError when there is no engine, EngineError when the engine dies midway.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End a request; its stream gets a last event with FinishReason.ABORT. Unknown ids are ignored."""
        ...

    async def end_thinking(self, request_id: str) -> None:
        """The request's thinking ends now, in a legal way; it goes on to its answer or its call.

        Nothing happens where it does not think any more. Unknown ids are ignored.
        """
        ...

    async def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """Stop the engine and free what it owns; streams still open end with UnavailableError."""
        ...
