"""Answers that are being made, so that another request can reach them by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from pydantic import BaseModel

from mosso.core.errors import NotFoundError
from mosso.core.requests import Request
from mosso.core.source import TokenSource


class ThinkingEnded(BaseModel):
    """The answer `id` has been told to stop thinking; what it had thought already stays."""

    id: str
    object: Literal["thinking.ended"] = "thinking.ended"


class Running:
    """By scope and id. Used by one event loop."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._requests: dict[tuple[str, str], Sequence[Request]] = {}

    @contextmanager
    def holding(self, answer_id: str, requests: Sequence[Request]) -> Iterator[None]:
        """While the answer is made, of one request for each choice; they tell whose it is."""
        key = requests[0].tenant, answer_id
        self._requests[key] = requests
        try:
            yield
        finally:
            del self._requests[key]

    async def end_thinking(self, scope: str, answer_id: str) -> ThinkingEnded:
        """In all choices, at once, in a legal way. NotFoundError if no such answer is being made."""
        requests = self._requests.get((scope, answer_id))
        if requests is None:
            raise NotFoundError(f"No answer with the id {answer_id[:80]!r} is being made.", param="id")
        for request in requests:
            await self._source.end_thinking(request.id)
        return ThinkingEnded(id=answer_id)
