"""A long step, a step that hangs, a process that is stopped, a kernel that compiles: told apart."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace

import httpx
import pytest
from start_code import ENGINE, at_start

from mosso.api.settings import ApiSettings
from mosso.checkpoint.toy_tokenizer import toy_tokenizer
from mosso.core.requests import Request, SamplingParams
from mosso.engine.client import EngineClient
from mosso.engine.messages import Beat
from mosso.engine.pulse import BEAT_SECONDS, COMPILE_SECONDS, Phase, Pulse, stalled
from mosso.harmony.tokenizer import Tokenizer
from mosso.server.app import create_app
from mosso.server.settings import ServerSettings


def test_a_mark_makes_it_young():
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    now[0] = 5
    assert pulse.read() == (Phase.IDLE, 5)
    pulse.enter(Phase.STEP)
    now[0] = 7
    assert pulse.read() == (Phase.STEP, 2)
    pulse.mark()
    assert pulse.read() == (Phase.STEP, 0)
    pulse.compiling(True)
    now[0] = 100
    assert pulse.read() == (Phase.COMPILING, 93)
    pulse.compiling(False)
    assert pulse.read() == (Phase.STEP, 0)


@pytest.mark.parametrize(
    ("phase", "still", "silence", "expected"),
    [
        (Phase.STEP, 0.0, 0.4, 0.4),
        (Phase.STEP, 7.0, 0.4, 7.4),  # it beats, but the step does not move
        (Phase.STEP, 0.0, 20.0, 20.0),  # it says nothing at all
        (Phase.IDLE, 900.0, 0.4, 0.4),  # idleness is no stall: what came last is not in its hands yet
        (Phase.IDLE, 900.0, 20.0, 20.0),
        (Phase.COMPILING, 300.0, 0.4, 0.4),
        (Phase.COMPILING, 300.0, 20.0, 20.0),
        (Phase.COMPILING, COMPILE_SECONDS, 9.0, 9.0),  # no compilation takes so long
        (Phase.COMPILING, COMPILE_SECONDS + 60, 0.4, 60.4),
    ],
)
def test_stalled(phase, still, silence, expected):
    assert stalled(phase, still, silence) == pytest.approx(expected)


def test_the_loop_says_what_it_does(bench, request_of):
    """Idle before it sleeps in the inbox, in a step while it waits for one."""
    made = bench()
    pulse, seen = made.loop._pulse, []
    launch = made.runner.launch

    def spy(plan):
        seen.append(pulse.read()[0])
        return launch(plan)

    made.runner.launch = spy
    made.run([request_of("a", range(9), max_tokens=3)])
    assert set(seen) == {Phase.STEP}
    assert pulse.read()[0] is Phase.STEP
    assert made.loop.idle, "the next turn enters IDLE before it blocks"


PATCH = """
import os
import time
import mosso.model.paged as paged
forward = paged.forward
def slow(weights, config, kv, inputs, operations=None, mark=None):
    first = int(inputs.tokens[0])
    if first == 501:                      # never ends, though the process lives
        time.sleep(1000)
    while first in (500, 502) and not os.path.exists(GO):  # long, marked, until the test has seen enough
        time.sleep(0.01)
        mark()
    return forward(weights, config, kv, inputs, operations, mark)
paged.forward = slow

from mosso.engine.runner import TorchRunner
launch = TorchRunner.launch
def compiles(self, plan):                 # a kernel, without marks: in the loop's own thread, as on a GPU
    if any(start.request.prompt[0] == 503 for start in plan.starts):
        pulse = self._forward.keywords["mark"].__self__
        pulse.compiling(True)
        while not os.path.exists(GO):
            time.sleep(0.01)
        pulse.compiling(False)
    return launch(self, plan)
TorchRunner.launch = compiles

from mosso.engine.pulse import BEAT_SECONDS, Pulse
read, beats = Pulse.read, []
def beat(self):
    beats.append(None)
    return read(self)
Pulse.read = beat
Pulse.__init__.__defaults__ = (lambda: BEAT_SECONDS * len(beats),)
"""


@pytest.fixture
def patched(settings, tmp_path, monkeypatch):
    """patched(): a client of an engine whose first token of a prompt says what its step does.

    Both sides' clocks count the engine's beats: a process that a busy machine lets stand still for a while is
    not taken for an engine that hangs.
    """
    go = tmp_path / "go"
    beats, heard = itertools.count(1), EngineClient._next
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)

    async def next_message(client):
        message = await heard(client)
        if isinstance(message, Beat):
            clock.now = BEAT_SECONDS * next(beats)
        return message

    monkeypatch.setattr(EngineClient, "_next", next_message)
    monkeypatch.setattr("mosso.engine.client.time", clock)
    monkeypatch.setattr("mosso.engine.client.CLOSE_SECONDS", 0.1)
    monkeypatch.setenv("PYTHONPATH", at_start(tmp_path, ENGINE, f"GO = {str(go)!r}\n{PATCH}"))

    @asynccontextmanager
    async def start():
        client = await EngineClient.start(settings())
        try:
            yield client
        finally:
            await client.close()

    start.go = go
    return start


async def test_a_long_step_moves_and_a_hanging_one_does_not(patched):
    async with patched() as client:
        async with aclosing(client.stream(Request("long", (500, 1), SamplingParams(1)))) as stream:
            first = asyncio.ensure_future(anext(stream))
            worst = longest = 0.0
            # One that stood still as long as its step took would never do.
            while longest < max(3, 2 * worst):
                stats = await client.stats()
                worst = max(worst, stats.seconds_stalled)
                longest = max(longest, stats.seconds_since_step)
                assert longest < 60, "the step took long and did not stall"
                assert not first.done()
                await asyncio.sleep(0.01)
            patched.go.touch()
            assert (await first).tokens
        async with aclosing(client.stream(Request("hangs", (501, 1), SamplingParams(1)))) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            while (await client.stats()).seconds_stalled < 2:
                await asyncio.sleep(0.01)
            assert client.is_alive
            waiting.cancel()
            await asyncio.wait([waiting])


STUCK_SECONDS = 3.0  # six beats


@pytest.mark.parametrize("token", [502, 503])
async def test_the_probe_is_good_while_a_long_step_runs_and_a_kernel_compiles(patched, token):
    """Longer than a step may stand still: until the engine is so far that a hang would have been told."""
    async with patched() as client, served(client) as http:
        asked = asyncio.ensure_future(generate(http, token))
        while (await client.stats()).seconds_since_step < 2 * STUCK_SECONDS:
            assert not asked.done()
            assert (await http.get("/v1/health/live")).status_code == 200
            await asyncio.sleep(0.05)
        patched.go.touch()
        assert (await asked).status_code == 200


async def test_the_probe_turns_bad_when_the_engine_hangs(patched):
    async with patched() as client, served(client) as http:
        assert (await http.get("/v1/health/live")).status_code == 200
        asked = asyncio.ensure_future(generate(http, 501))
        while (answer := await http.get("/v1/health/live")).status_code == 200:
            assert not asked.done()
            await asyncio.sleep(0.05)
        assert answer.status_code == 503
        assert answer.json()["status"] == "not_live"
        assert client.is_alive
        asked.cancel()
        await asyncio.wait([asked])


def served(client: EngineClient) -> httpx.AsyncClient:
    """The whole app over the engine."""
    settings = ServerSettings(ApiSettings("model"), stuck_seconds=STUCK_SECONDS)
    app = create_app(client, Tokenizer(json.loads(toy_tokenizer(512))), settings)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://model")


async def generate(http: httpx.AsyncClient, token: int) -> httpx.Response:
    return await http.post("/v1/completions", json={"prompt": [token, 1], "max_tokens": 1}, timeout=None)


def test_a_compiler_tells_when_it_begins_and_ends():
    triton = pytest.importorskip("triton")
    from mosso.kernels.gpu.compile import on_compile

    hooks = triton.knobs.runtime
    before = hooks.jit_cache_hook, hooks.jit_post_compile_hook
    told = []
    try:
        on_compile(told.append)
        assert not hooks.jit_cache_hook(key="k", repr="r", fn=None, compile={}, is_manual_warmup=False)
        hooks.jit_post_compile_hook(key="k", repr="r", fn=None, compile={}, is_manual_warmup=False)
    finally:
        hooks.jit_cache_hook, hooks.jit_post_compile_hook = before
    assert told == [True, False]
