"""A long step, a step that hangs, a process that is stopped, a kernel that compiles: told apart."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from mosso.core.requests import Request, SamplingParams
from mosso.engine.client import EngineClient
from mosso.engine.pulse import COMPILE_SECONDS, Phase, Pulse, stalled


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
import time
import mosso.model.paged as paged
forward = paged.forward
def slow(weights, config, kv, inputs, operations=None, mark=None):
    first = int(inputs.tokens[0])
    if first == 500:                      # long, and every part of it is marked
        end = time.monotonic() + 3
        while time.monotonic() < end:
            time.sleep(0.01)
            mark()
    if first == 501:                      # never ends, though the process lives
        time.sleep(1000)
    return forward(weights, config, kv, inputs, operations, mark)
paged.forward = slow
"""


async def test_a_long_step_moves_and_a_hanging_one_does_not(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("mosso.engine.client.CLOSE_SECONDS", 0.1)
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif 'mosso.engine.process' in sys.orig_argv:\n    exec({PATCH!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    client = await EngineClient.start(settings())
    try:
        async with aclosing(client.stream(Request("long", (500, 1), SamplingParams(1)))) as stream:
            first = asyncio.ensure_future(anext(stream))
            worst = longest = 0.0
            while not first.done():
                stats = await client.stats()
                worst = max(worst, stats.seconds_stalled)
                longest = max(longest, stats.seconds_since_step)
                await asyncio.sleep(0.01)
            assert first.result().tokens
        assert worst < longest / 2, "the step took long and did not stall"
        async with aclosing(client.stream(Request("hangs", (501, 1), SamplingParams(1)))) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            while (await client.stats()).seconds_stalled < 2:
                await asyncio.sleep(0.01)
            assert client.is_alive
            waiting.cancel()
            await asyncio.wait([waiting])
    finally:
        await client.close()


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
