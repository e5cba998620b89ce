"""What travels between the processes arrives as it was sent."""

from __future__ import annotations

import pickle
import pickletools

from mosso.core.requests import EngineStats, FinishReason, TokenEvent, TokenLogprob
from mosso.engine.messages import HEADER, Batch, decode, encode

EVENTS = (
    TokenEvent("a", (1, 2), cached_tokens=16),
    TokenEvent("b", (3,), (TokenLogprob(3, -0.5, ((3, -0.5), (7, -2.0))),), FinishReason.STOP),
    TokenEvent("c", finish=FinishReason.ERROR, error="it broke"),
)


def test_a_batch_arrives_as_it_was_sent() -> None:
    sent = Batch(EVENTS, EngineStats(running=2, finished={"stop": 1}))
    wire = encode(sent)
    assert HEADER.unpack(wire[: HEADER.size]) == (len(wire) - HEADER.size,)
    assert decode(wire[HEADER.size :]) == sent
    assert decode(encode(Batch((), EngineStats()))[HEADER.size :]) == Batch((), EngineStats())


def test_events_travel_without_their_class() -> None:
    """Each would otherwise be taken apart by Python code, at 512 rows a millisecond a step."""
    body = pickle.dumps(Batch(EVENTS, EngineStats()))
    names = {str(argument) for _, argument, _ in pickletools.genops(body)}
    assert "TokenEvent" not in names
    assert "TokenLogprob" in names
