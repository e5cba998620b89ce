"""A response that is made while nobody waits for it: its events, for whoever comes to read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

if TYPE_CHECKING:
    from mosso.api.responses import Answer


class Run:
    """One response in the background. Event n of the stream is `events[n]`; the first `kept` are stored.

    `ended`: no event follows. `cancelled`: a client asked for its end.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.events: list[bytes] = []
        self.kept = 0
        self.ended = False
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def tell(self, events: Sequence[bytes], *, last: bool = False) -> None:
        """More events; wakes every reader."""
        self.events += events
        self.ended = last
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, after: int) -> AsyncGenerator[list[bytes]]:
        """The events numbered above `after`, those to come included. The first batch may be empty."""
        place = after + 1
        batch = self.events[place:]
        while True:
            place += len(batch)
            yield batch
            while not (batch := self.events[place:]):
                if self.ended:
                    return
                await self._news.wait()

    async def cancel(self) -> None:
        """Returns when the run has ended. What is over but not yet stored is left to come to its end.

        The task has begun by now: its first step comes before anybody is told the response's id.
        """
        assert self.task is not None
        if not self.cancelled and self.answer.status in ("queued", "in_progress"):
            self.cancelled = True
            self.task.cancel()
        await asyncio.wait([self.task])


def with_ending(events: list[bytes], body: dict[str, Any]) -> list[bytes]:
    """A finished response's stored events. The last one may be missing, where the process died before it was
    kept: it follows from the response itself. A cancelled response has none."""
    kind = f"response.{body['status']}"
    if body["status"] == "cancelled" or (events and from_json(events[-1])["type"] == kind):
        return events
    return [*events, to_json({"type": kind, "sequence_number": len(events), "response": body})]
