"""Answers that are being made, so that another request can reach them by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel

from mosso.core.errors import NotFoundError
from mosso.core.requests import Request
from mosso.core.source import TokenSource


class ThinkingEnded(BaseModel):
    """The answer `id` has been told to stop thinking; what it had thought already stays."""

    id: str
    object: Literal["thinking.ended"] = "thinking.ended"


@dataclass(slots=True)
class Held:
    """An answer that is being made: the requests that the engine has of it, one a choice."""

    requests: Sequence[Request]
    thought: bool = False  # it has been told to stop thinking

    def next(self, request: Request) -> Request:
        """The answer goes on with another turn: this is its request from now on, as it is to be sent."""
        self.requests = (request,)
        return replace(request, thinking_budget=0) if self.thought else request


class Running:
    """Answers by scope and id. Used by one event loop."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._held: dict[tuple[str, str], Held] = {}

    @contextmanager
    def holding(self, answer_id: str, requests: Sequence[Request]) -> Iterator[Held]:
        """While the answer is made; its first requests tell whose it is."""
        key = requests[0].tenant, answer_id
        held = self._held[key] = Held(requests)
        try:
            yield held
        finally:
            del self._held[key]

    async def end_thinking(self, scope: str, answer_id: str, shown: str | None = None) -> ThinkingEnded:
        """In all choices and turns, in a legal way. NotFoundError if no such answer is being made.

        `shown`: the client's name for the answer, where its dialect has another one.
        """
        shown = shown or answer_id
        held = self._held.get((scope, answer_id))
        if held is None:
            raise NotFoundError(f"No answer with the id {shown[:80]!r} is being made.", param="id")
        held.thought = True
        for request in held.requests:
            await self._source.end_thinking(request.id)
        return ThinkingEnded(id=shown)
