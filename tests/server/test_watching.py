"""What a watched source notes, and what it hands on."""

from __future__ import annotations

import time

import pytest
from mosso_fakes import ScriptedSource

from mosso.core.errors import UnavailableError
from mosso.core.requests import FinishReason, Request, SamplingParams, TokenEvent
from mosso.server import watching
from mosso.server.record import RequestRecord
from mosso.server.watching import Watch, WatchedSource, Watching

CHAT = "/v1/chat/completions"


class Ends:
    """A watcher that counts."""

    def __init__(self) -> None:
        self.watches: list[Watch] = []
        self.errors: list[str | None] = []

    def begun(self, watch, headers) -> None:
        assert watch.record.status == 0

    def ended(self, watch) -> None:
        self.watches.append(watch)
        self.errors.append(watch.record.error)


@pytest.fixture
def watch():
    made = Watch(RequestRecord("r", "POST", CHAT), "chat")
    made.notes[Watching] = [Ends()]
    token = watching._watch.set(made)
    yield made
    watching._watch.reset(token)


def test_no_moment_is_told_later_than_it_was() -> None:
    """However long it takes from the record to the watch."""
    record = RequestRecord("r", "POST", CHAT)
    record.started -= 5.0
    made = Watch(record, "chat")
    assert made.begun_ns <= made.unix_ns(time.monotonic()) <= time.time_ns()
    assert time.time_ns() - made.begun_ns >= 5_000_000_000


async def test_everything_else_is_the_sources_own() -> None:
    source = ScriptedSource(lambda request: [1, 2, 3])
    watched = WatchedSource(source)
    request = Request("a", (1,), SamplingParams(3))
    assert [event.tokens async for event in watched.stream(request)] == [(1,), (2,), (3,)]
    assert source.seen == [request], "nobody watches: not even a seed is added"
    assert watched.limits == source.limits
    assert await watched.stats() is source.stats_value
    await watched.abort("a")
    await watched.end_thinking("a")
    await watched.close()
    with pytest.raises(UnavailableError):
        watched.limits  # noqa: B018


async def test_what_is_noted_of_a_sequence(watch) -> None:
    events = [
        TokenEvent("a", (1,), cached_tokens=8, queued_seconds=0.25),
        TokenEvent("a", (2, 3)),
        TokenEvent("a", finish=FinishReason.ERROR, error="burnt"),
    ]
    watched = WatchedSource(ScriptedSource(lambda request: events))
    stream = watched.stream(Request("a", (5, 6), SamplingParams(9)))
    await anext(stream)
    await watched.end_thinking("a")
    await watched.end_thinking("b")
    (generation,) = watch.generations
    assert (generation.thinking_ended, generation.ended) == (1, None)
    assert [event.tokens async for event in stream] == [(2, 3), ()]
    assert (generation.tokens, generation.cached_tokens, generation.queued_seconds) == ([1, 2, 3], 8, 0.25)
    assert (generation.finish, generation.error) == ("error", "burnt")
    assert generation.request.sampling.seed is not None
    assert generation.begun <= generation.first <= generation.ended


async def test_the_end_is_told_when_both_are_over(watch) -> None:
    """The answer and the work in the background, and again for work that begins after that."""
    (ends,) = watch.notes[Watching]
    watched = WatchedSource(ScriptedSource(lambda request: [1, 2]))
    stream = watched.stream(Request("a", (1,), SamplingParams(2)))
    await anext(stream)
    watch.answered = True
    assert ends.watches == []
    await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert ends.watches == [watch]
    _ = [event async for event in watched.stream(Request("b", (1,), SamplingParams(2)))]
    assert ends.watches == [watch, watch]
    assert [generation.request.id for generation in watch.generations] == ["a", "b"]


def test_a_fault_of_ours_is_noted_too(serve) -> None:
    ends = Ends()
    server = serve(watchers=[ends])
    server.source.script = None
    body = {"messages": [{"role": "user", "content": "a"}]}
    assert server.post(CHAT, body).status_code == 500
    server.stop()
    (watch,) = ends.watches
    assert ends.errors == ["TypeError"], "what it was; the log and the client are told that it was ours"
    assert watch.reasons == ["error"]
