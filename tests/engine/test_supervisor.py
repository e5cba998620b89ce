"""Engines that are killed under a Supervisor: real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from patient_engines import keep_engines_near
from start_code import ENGINE, at_start

from mosso.core.errors import CheckpointError, EngineError, OverloadedError, RequestError, UnavailableError
from mosso.core.requests import EngineStats, FinishReason, Request, SamplingParams, TokenEvent
from mosso.engine import supervisor as module
from mosso.engine.client import EngineClient, EngineLostError
from mosso.engine.supervisor import RestartPolicy, Supervisor

QUICK = RestartPolicy(pause=0.01)


@pytest.fixture(autouse=True)
def _engines_stay_near(monkeypatch):
    keep_engines_near(monkeypatch)


@asynccontextmanager
async def supervised(settings, policy=QUICK, **options):
    source = await Supervisor.start(settings, policy=policy, **options)
    try:
        yield source
    finally:
        await source.close()


async def collect(source, request, after=lambda events: None):
    events = []
    async for event in source.stream(request):
        events.append(event)
        after(events)
    return events


def killer(source, *counts):
    """Kills the engine when a stream has told so many tokens.

    Or some more: what an engine that is dead had told already may come to be read after its death.
    """
    left, killed = list(counts), {None}

    def look(events):
        if left and len(tokens_of(events)) >= left[0] and source.pid not in killed:
            left.pop(0)
            killed.add(source.pid)
            os.kill(source.pid, signal.SIGKILL)

    return look


def tokens_of(events):
    return [token for event in events for token in event.tokens]


def logprobs_of(events):
    return [entry for event in events for entry in event.logprobs]


SAMPLINGS = {
    "greedy": SamplingParams(max_tokens=150, temperature=0),  # long enough to be killed twice
    "seeded": SamplingParams(max_tokens=40, seed=7, top_p=0.9, top_k=50),
    "penalized": SamplingParams(
        max_tokens=40, temperature=0, presence_penalty=0.5, frequency_penalty=0.7, repetition_penalty=1.3
    ),
    "logprobs": SamplingParams(max_tokens=40, seed=3, logprobs=3),
    "least": SamplingParams(
        max_tokens=40, seed=5, min_tokens=30, stop_ids=frozenset(range(256)), logit_bias=((9, 2.0),)
    ),
}


async def test_streams_go_on_behind_a_death_as_if_nothing_had_happened(settings):
    """Token by token, with log probabilities, and the prompt's cached tokens told once."""
    requests = [Request(name, tuple(range(20, 60)), sampling) for name, sampling in SAMPLINGS.items()]
    async with supervised(settings()) as source:
        calm = await asyncio.gather(*(collect(source, request) for request in requests))
    async with supervised(settings()) as source:
        first = killer(source, 3, 17)
        looks = [first] + [lambda events: None] * (len(requests) - 1)
        stormy = await asyncio.gather(*map(collect, [source] * len(requests), requests, looks))
        stats = await source.stats()
    for undisturbed, disturbed in zip(calm, stormy, strict=True):
        assert tokens_of(disturbed) == tokens_of(undisturbed)
        assert logprobs_of(disturbed) == logprobs_of(undisturbed)
        assert disturbed[-1].finish is undisturbed[-1].finish
        assert [event.cached_tokens for event in disturbed[1:]] == [0] * (len(disturbed) - 1)
    assert stats.restarts == 2
    assert stats.replays >= 2
    told = sum(len(tokens_of(events)) for events in stormy)
    assert stats.generated_tokens >= told - len(requests)  # the last batch of a dead engine may be lost


async def test_an_unseeded_stream_has_one_seed_in_all_engines(settings, request_of):
    request = Request("a", tuple(range(9)), SamplingParams(max_tokens=30))
    async with supervised(settings()) as source:
        seen = []
        for client in (source._client,):
            inner = client.stream

            def spy(request, inner=inner):
                seen.append(request)
                return inner(request)

            client.stream = spy
        events = await collect(source, request, killer(source, 5))
        seed = seen[0].sampling.seed
        assert seed is not None
        again = await collect(source, replace(request, sampling=replace(request.sampling, seed=seed)))
    assert tokens_of(again) == tokens_of(events)


async def test_nothing_told_yet_is_replayed_whole(settings, request_of):
    """Killed before anything was sampled: requests that run, that wait, and that come meanwhile."""
    request = request_of("a", range(30), max_tokens=8)
    async with supervised(settings(max_rows=1)) as source:
        expected = tokens_of(await collect(source, request))
        tasks = [
            asyncio.create_task(collect(source, replace(request, id=f"r{number}"))) for number in range(5)
        ]
        await asyncio.sleep(0)
        os.kill(source.pid, signal.SIGKILL)
        results = await asyncio.gather(*tasks)
        assert [tokens_of(events) for events in results] == [expected] * 5
        assert source.is_alive


async def test_while_it_is_started_again_new_requests_are_refused_and_those_in_hand_wait(
    settings, request_of
):
    async with supervised(settings()) as source:
        before = await source.stats()
        task = asyncio.create_task(collect(source, request_of("a", range(30), max_tokens=600)))
        while (await source.stats()).generated_tokens < 2:
            await asyncio.sleep(0.01)
        os.kill(source.pid, signal.SIGKILL)
        while source.pid is not None:
            await asyncio.sleep(0.001)
        with pytest.raises(UnavailableError, match="started again"):
            source.limits  # noqa: B018
        stats = await source.stats()
        assert (stats.running, stats.waiting) == (0, 1)
        assert stats.generated_tokens >= before.generated_tokens + 2
        with pytest.raises(RequestError, match="a is already running"):
            await collect(source, request_of("a", [1]))
        assert len(tokens_of(await task)) == 600
        assert source.limits.vocab_size == 512
        assert (await source.stats()).generated_tokens >= 600


async def test_an_abort_while_no_engine_runs(settings, request_of):
    async with supervised(settings()) as source:
        stream = source.stream(request_of("a", range(30), max_tokens=1000))
        await anext(stream)
        os.kill(source.pid, signal.SIGKILL)
        while source.pid is not None:
            await asyncio.sleep(0.001)
        await source.abort("a")
        await source.abort("unknown")
        rest = [event async for event in stream]
        assert rest[-1].finish is FinishReason.ABORT
        assert (await source.stats()).finished == {}


async def test_an_abort_of_a_running_stream(settings, request_of):
    async with supervised(settings()) as source:
        stream = source.stream(request_of("a", range(30), max_tokens=1000))
        await anext(stream)
        await source.abort("a")
        assert [event async for event in stream][-1].finish is FinishReason.ABORT


async def test_leaving_while_no_engine_runs(settings, request_of):
    async with supervised(settings()) as source:
        async with aclosing(source.stream(request_of("a", range(30), max_tokens=1000))) as stream:
            await anext(stream)
            os.kill(source.pid, signal.SIGKILL)
            waiting = asyncio.ensure_future(anext(stream))
            while source.pid is not None:
                await asyncio.sleep(0.001)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert len(tokens_of(await collect(source, request_of("a", [1], max_tokens=4)))) == 4


async def test_closing_while_no_engine_runs(settings, request_of):
    async with supervised(settings(), replace(QUICK, pause=60, longest_pause=60)) as source:
        for _ in range(2):  # the second restart pauses
            task = asyncio.create_task(collect(source, request_of("a", range(30), max_tokens=1000)))
            while not source._open:
                await asyncio.sleep(0)
            os.kill(source.pid, signal.SIGKILL)
            while source.pid is not None:
                await asyncio.sleep(0.001)
            if _ == 0:
                task.cancel()
                await asyncio.wait([task])
                while source.pid is None:
                    await asyncio.sleep(0.01)
    with pytest.raises(UnavailableError, match="stopped"):
        await task
    with pytest.raises(UnavailableError, match="stopped"):
        await collect(source, request_of("b", [1]))


POISON = """
import os
import mosso.engine.table as table
apply = table.RowTable.apply
def poisoned(self, plan):
    if any(511 in start.tokens for start in plan.starts): os._exit(9)
    return apply(self, plan)
table.RowTable.apply = poisoned
"""


async def test_a_request_that_kills_its_engine_is_given_up(settings, request_of, monkeypatch, tmp_path):
    """Token 511 in a prompt kills the process; the server lives, and so does who comes after."""
    monkeypatch.setenv("PYTHONPATH", at_start(tmp_path, ENGINE, POISON))
    async with supervised(settings(), replace(QUICK, replays=2)) as source:
        with pytest.raises(EngineError, match=r"ended with status 9, for the 3\. time"):
            await collect(source, request_of("poison", [1, 511]))
        assert len(tokens_of(await collect(source, request_of("b", [1, 2], max_tokens=5)))) == 5
        stats = await source.stats()
        assert (stats.restarts, stats.replays) == (3, 2)


async def test_an_engine_that_dies_again_and_again_stays_down(settings, request_of):
    deaths = []
    policy = replace(QUICK, restarts=1, replays=9)
    async with supervised(settings(), policy, on_death=deaths.append) as source:
        stream = source.stream(request_of("a", range(30), max_tokens=1000))
        await anext(stream)
        first = source.pid
        os.kill(first, signal.SIGKILL)
        while source.pid in (first, None):  # the stream may still tell what came before the death
            await asyncio.sleep(0.005)
        os.kill(source.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="1 time in 120 s and stays down"):
            async for _ in stream:
                pass
        assert not source.is_alive
        assert len(deaths) == 1
        with pytest.raises(EngineError, match="stays down"):
            source.limits  # noqa: B018
        with pytest.raises(EngineError, match="stays down"):
            await collect(source, request_of("b", [1]))


async def test_a_start_that_fails_is_tried_again(settings, request_of, tmp_path, caplog):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in settings().model.iterdir():
        (folder / file.name).symlink_to(file)
    async with supervised(settings(model=folder)) as source:
        task = asyncio.create_task(collect(source, request_of("a", range(30), max_tokens=50)))
        while (await source.stats()).generated_tokens < 2:
            await asyncio.sleep(0.01)
        (folder / "config.json").rename(tmp_path / "away")
        os.kill(source.pid, signal.SIGKILL)
        while "does not start" not in caplog.text:
            await asyncio.sleep(0.01)
        (tmp_path / "away").rename(folder / "config.json")
        assert len(tokens_of(await task)) == 50
    starts = [record.message for record in caplog.records if "again" in record.message]
    assert starts[:2] == ["starting the engine again"] * 2
    assert re.fullmatch(r"the engine serves again, after \d+\.\d s", starts[-1])


async def test_the_first_start_fails_at_once(settings, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        await Supervisor.start(settings(model=tmp_path / "model"))


async def test_a_hanging_engine_is_killed_and_its_work_goes_on(settings, request_of, monkeypatch, caplog):
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.05)
    request = request_of("a", range(30), max_tokens=200)
    async with supervised(settings(), replace(QUICK, stalled=3)) as source:
        expected = tokens_of(await collect(source, request))
        stream = source.stream(replace(request, id="b"))
        told = [await anext(stream)]
        os.kill(source.pid, signal.SIGSTOP)
        told += [event async for event in stream]
        assert tokens_of(told) == expected
        assert "has not moved for" in caplog.text


async def test_one_look_does_not_tell_a_hanging_engine(settings, monkeypatch, caplog):
    """The server itself may just have woken: what the engine said before that is read after the look."""
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.05)
    stats, looks, seen = EngineClient.stats, iter([99.0]), []

    async def told(client: EngineClient) -> EngineStats:
        found = await stats(client)
        seen.append(next(looks, found.seconds_stalled))
        return replace(found, seconds_stalled=seen[-1])

    monkeypatch.setattr(EngineClient, "stats", told)
    async with supervised(settings(), replace(QUICK, stalled=3)):
        while len(seen) < 4:
            await asyncio.sleep(0.01)
    assert seen[0] == 99.0
    assert "has not moved for" not in caplog.text


async def test_a_hanging_engine_is_left_alone_where_that_is_asked(settings, request_of, monkeypatch):
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr("mosso.engine.client.CLOSE_SECONDS", 0.1)
    async with supervised(settings(), replace(QUICK, stalled=None)) as source:
        stream = source.stream(request_of("a", range(30), max_tokens=200))
        await anext(stream)
        os.kill(source.pid, signal.SIGSTOP)
        while (await source.stats()).seconds_stalled < 0.5:
            await asyncio.sleep(0.01)
        assert source.pid is not None
    await stream.aclose()


class Fragile:
    """A client that meets what the script says: an exception, or an event."""

    def __init__(self, *script):
        self.script = list(script)
        self.seen = []
        self.limits = None

    async def stream(self, request):
        self.seen.append(request)
        for item in self.script.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item

    async def end_thinking(self, request_id):
        self.seen.append(("thought", request_id))


def over(client, settings):
    source = Supervisor(settings(), QUICK, None, None)
    source._client = client
    source._changed.set()
    return source


async def test_a_replay_waits_where_a_new_request_is_refused(settings, request_of):
    done = TokenEvent("a", (2,), finish=FinishReason.LENGTH)
    full = OverloadedError("full", retry_after=0.001)
    client = Fragile(
        [TokenEvent("a", (1,), cached_tokens=8), EngineLostError("gone")], [full], [full], [done]
    )
    source = over(client, settings)
    events = await collect(source, request_of("a", range(9)))
    assert tokens_of(events) == [1, 2]
    assert [request.generated for request in client.seen] == [(), (1,), (1,), (1,)]
    with pytest.raises(OverloadedError):
        await collect(over(Fragile([full]), settings), request_of("a", range(9)))


async def test_a_replay_that_the_new_engine_refuses_is_not_the_clients_fault(settings, request_of):
    wrong = RequestError("too long", param="messages")
    with pytest.raises(EngineError, match="cannot go on with it: too long"):
        await collect(over(Fragile([EngineLostError("gone")], [wrong]), settings), request_of("a", [1]))
    with pytest.raises(RequestError, match="too long"):
        await collect(over(Fragile([wrong]), settings), request_of("a", [1]))


async def test_a_request_lives_through_one_failed_step(settings, request_of):
    burnt = TokenEvent("a", finish=FinishReason.ERROR, error="burnt", lost=True)
    done = TokenEvent("a", (2,), finish=FinishReason.LENGTH)
    source = over(client := Fragile([TokenEvent("a", (1,)), burnt], [done]), settings)
    assert tokens_of(await collect(source, request_of("a", range(9)))) == [1, 2]
    assert [request.generated for request in client.seen] == [(), (1,)]
    source = over(Fragile([burnt], [burnt]), settings)
    assert await collect(source, request_of("a", range(9))) == [burnt]
    hopeless = replace(burnt, lost=False)
    source = over(client := Fragile([hopeless]), settings)
    assert await collect(source, request_of("a", range(9))) == [hopeless]


FRAGILE = """
import mosso.model.paged as paged
forward, steps = paged.forward, []
def fragile(*args, **kwargs):
    steps.append(1)
    if len(steps) == 25: raise RuntimeError('a bit flipped')
    return forward(*args, **kwargs)
paged.forward = fragile
"""


async def test_a_step_that_fails_once_is_not_noticed(settings, request_of, monkeypatch, tmp_path):
    request = request_of("a", range(30), max_tokens=40, temperature=1.0, seed=4)
    async with supervised(settings()) as source:
        calm = await collect(source, replace(request, sampling=replace(request.sampling, max_tokens=20)))
    monkeypatch.setenv("PYTHONPATH", at_start(tmp_path, ENGINE, FRAGILE))
    async with supervised(settings()) as source:
        events = await collect(source, request)
        stats = await source.stats()
    assert len(tokens_of(events)) == 40
    assert tokens_of(events)[:20] == tokens_of(calm)
    assert (stats.restarts, stats.replays, stats.finished) == (0, 1, {"error": 1, "length": 1})


async def test_thinking_that_was_ended_stays_ended(settings, request_of):
    source = over(client := Fragile([TokenEvent("a", (1,)), TokenEvent("a", (2,)), EngineLostError("gone")],
                                    [TokenEvent("a", (3,), finish=FinishReason.STOP)]), settings)  # fmt: skip
    stream = source.stream(request_of("a", range(9)))
    await anext(stream)
    await source.end_thinking("a")
    await source.end_thinking("unknown")
    assert tokens_of([event async for event in stream]) == [2, 3]
    first, told, second = client.seen
    assert told == ("thought", "a")
    assert (first.thinking_budget, second.thinking_budget) == (None, 0)
    assert second.generated == (1, 2)


def test_what_a_dead_engine_counted_is_kept():
    past = EngineStats(steps=3, finished={"stop": 1}, restarts=1)
    now = EngineStats(running=2, steps=4, finished={"stop": 1, "length": 2})
    both = module._sum(past, now)
    assert (both.running, both.steps, both.restarts) == (2, 7, 1)
    assert both.finished == {"stop": 2, "length": 2}
    assert module._without_state(both) == replace(EngineStats(), steps=7, restarts=1, finished=both.finished)


def test_pauses_grow_while_engines_die_young(settings, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    policy = RestartPolicy(restarts=6, window=100, pause=1, longest_pause=5)
    source = Supervisor(settings(), policy, None, None)
    error = EngineError("gone")
    assert [source._next_pause(error) for _ in range(5)] == [0, 1, 2, 4, 5]
    source._in_a_row = 0
    assert source._next_pause(error) == 0
    with pytest.raises(EngineError, match="gone; it was started again 6 times in 100 s and stays down"):
        source._next_pause(error)
    now[0] = 101
    assert source._next_pause(error) == 1, "older ones are forgotten"


async def test_an_engine_that_lived_long_is_started_again_at_once(settings, request_of):
    policy = replace(QUICK, settled=0.0, pause=60, longest_pause=60)
    async with supervised(settings(), policy) as source:
        events = await collect(source, request_of("a", range(30), max_tokens=200), killer(source, 3, 20))
        assert len(tokens_of(events)) == 200
        assert (await source.stats()).restarts == 2


async def test_closing_right_after_a_death(settings):
    """Before the keeper has closed the dead client: nothing of it is left behind."""
    source = await Supervisor.start(settings(), policy=QUICK)
    client = source._client
    os.kill(source.pid, signal.SIGKILL)
    while source.pid is not None:
        await asyncio.sleep(0)
    await source.close()
    await source.close()
    assert client._writer.transport.is_closing()
    assert client._process.returncode is not None
    assert client._receiving.done()
