"""What the observer is told of a choice's time."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from mosso_fakes import ScriptedSource

from mosso.api import generation
from mosso.api.generation import Choice, generate
from mosso.api.observer import NullObserver
from mosso.api.usage import TokenCounts
from mosso.core.errors import EngineError
from mosso.core.requests import FinishReason, Request, SamplingParams, TokenEvent


class Machine:
    def __init__(self) -> None:
        self.counts = TokenCounts()
        self.done = False
        self.finish_reason = "stop"

    def feed(self, event: TokenEvent) -> Sequence[int]:
        self.done = event.finish is not None
        return event.tokens


class Spent(NullObserver):
    def __init__(self) -> None:
        self.told: list[dict[str, float]] = []

    def spent(self, **seconds: float) -> None:
        self.told.append(seconds)


async def watched(monkeypatch, observer: Spent, *script: tuple[float, TokenEvent]) -> list[dict[str, float]]:
    """The events come at these times, the request at 0."""
    times = [0.0, *(at for at, event in script if event.tokens), 99.0]
    monkeypatch.setattr(generation, "time", SimpleNamespace(monotonic=lambda: times.pop(0)))
    source = ScriptedSource(lambda request: [event for _, event in script])
    choice = Choice(Request("a", (1,), SamplingParams(9)), Machine())
    async for _ in generate(source, [choice], observer):
        pass
    return observer.told


async def test_queue_prefill_and_decode(monkeypatch) -> None:
    first = TokenEvent("a", (1,), queued_seconds=0.5)
    last = TokenEvent("a", (3, 4), finish=FinishReason.STOP)
    told = await watched(monkeypatch, Spent(), (2.0, first), (2.5, TokenEvent("a", (2,))), (4.0, last))
    assert told == [{"queued": 0.5, "prefill": 1.5, "decode": 2.0, "tokens": 4}]


async def test_a_choice_without_tokens_tells_nothing(monkeypatch) -> None:
    failed = TokenEvent("a", finish=FinishReason.ERROR, error="burnt")
    observer = Spent()
    with pytest.raises(EngineError, match="burnt"):
        await watched(monkeypatch, observer, (1.0, failed))
    assert observer.told == []
