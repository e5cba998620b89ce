"""How a reader that is behind catches up: what has arrived goes on together, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from mosso_fakes import ScriptedSource

from mosso.api.generation import MOST_AT_ONCE, Choice, generate
from mosso.api.observer import NullObserver
from mosso.api.usage import TokenCounts
from mosso.core.errors import EngineError
from mosso.core.requests import FinishReason, Request, SamplingParams, TokenEvent


class Machine:
    """Its deltas are the tokens; it is done at the end, or at `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        self.counts = TokenCounts()
        self.done = False
        self.finish_reason = "stop"
        self._stop = stop

    def feed(self, event: TokenEvent) -> Sequence[int]:
        self.done = event.finish is not None or self._stop in event.tokens
        return event.tokens


def told(token: int, *, more: bool = False, finish: FinishReason | None = None) -> TokenEvent:
    return TokenEvent("a", (token,), finish=finish, more=more)


async def batches(events: Sequence[TokenEvent], machine: Machine | None = None) -> list[list[int]]:
    """What `generate` handed on of a stream of these events; an error is the last one's text."""
    choice = Choice(Request("a", (1,), SamplingParams(999)), machine or Machine())
    found: list[list[int]] = []
    try:
        async for _, deltas in generate(ScriptedSource(lambda request: events), [choice], NullObserver()):
            found.append(list(deltas))
    except EngineError as error:
        found.append([error.message])
    return found


async def test_what_has_arrived_goes_on_together():
    last = told(6, finish=FinishReason.LENGTH)
    events = [told(1), told(2, more=True), told(3, more=True), told(4), told(5, more=True), last]
    assert await batches(events) == [[1], [2, 3, 4], [5, 6]]


async def test_not_too_much_of_it():
    count = 2 * MOST_AT_ONCE + 1
    events = [told(token, more=True) for token in range(count)]
    found = await batches([*events, told(count, finish=FinishReason.STOP)])
    assert [len(batch) for batch in found] == [MOST_AT_ONCE, MOST_AT_ONCE, 2]
    assert [token for batch in found for token in batch] == list(range(count + 1))


async def test_what_lies_behind_the_end_is_not_read():
    events = [told(token, more=True) for token in range(9)]
    assert await batches(events, Machine(stop=3)) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "bad", [TokenEvent("a", finish=FinishReason.ERROR, error="burnt"), TokenEvent("a", more=True)]
)
async def test_what_came_before_a_bad_end_is_told_first(bad):
    *before, error = await batches([told(1, more=True), told(2, more=True), bad])
    assert before == [[1, 2]]
    assert error in (["burnt"], ["The engine ended the stream without a reason."])
