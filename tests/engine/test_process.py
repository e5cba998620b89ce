"""The engine as a real process behind EngineClient."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from start_code import ENGINE, at_start

from mosso.core.errors import (
    CheckpointError,
    EngineError,
    OverloadedError,
    RequestError,
    UnavailableError,
    UsageError,
)
from mosso.core.requests import EngineStats, FinishReason
from mosso.engine import client as client_module
from mosso.engine.client import EngineClient
from mosso.engine.process import GROUP_SIGNALS


@asynccontextmanager
async def running(settings, **options):
    client = await EngineClient.start(settings, **options)
    try:
        yield client
    finally:
        await client.close()


async def collect(client, request):
    return [event async for event in client.stream(request)]


def tokens_of(events):
    return [token for event in events for token in event.tokens]


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def quiet(client, ended: int = 0) -> EngineStats:
    """The statistics once nothing runs or waits, and so many requests have ended.

    Between two requests nothing runs either, as long as the engine has not told of the second.
    """
    while (
        (stats := await client.stats()).running
        or stats.waiting
        or stats.kv_blocks_held
        or sum(stats.finished.values()) < ended
    ):
        await asyncio.sleep(0.01)
    return stats


async def gone(pid: int) -> None:
    while exists(pid):
        await asyncio.sleep(0.01)


async def test_what_has_no_effect_on_the_cpu_is_said(settings):
    async with running(settings(gpu_memory=0.5)) as client:
        assert client.notes[0] == "--gpu-memory bounds nothing: no GPU is used"


async def test_what_the_engine_has_not_seen_counts_as_arriving(settings, request_of):
    async with running(settings()) as client:
        os.kill(client.pid, signal.SIGSTOP)
        try:
            streams = [
                asyncio.create_task(collect(client, request_of(f"r{n}", [n, 1, 2], max_tokens=3)))
                for n in range(3)
            ]
            await asyncio.sleep(0)
            stats = await client.stats()
            assert (stats.arriving, stats.running, stats.waiting) == (3, 0, 0)
        finally:
            os.kill(client.pid, signal.SIGCONT)
        await asyncio.gather(*streams)
        stats = await quiet(client)
        assert (stats.arriving, stats.row_limit, stats.loads) == (0, 16, ())
        assert stats.answer_seconds > 0
        assert stats.prompt_token_seconds > 0


async def test_a_stream_from_start_to_close(settings, request_of, bench, capfd):
    progress = []
    async with running(settings(), on_progress=progress.append) as client:
        assert [step.stage for step in progress] == ["reading the checkpoint", "loading weights"]
        assert client.limits.vocab_size == 512
        assert client.limits.max_rows == 16
        assert client.limits.max_context <= client.limits.kv_tokens
        assert client.notes[0] == "experts: MXFP4, as stored"
        assert client.notes[1].startswith("kernels: ")
        assert client.notes[2].startswith("KV cache: ")
        assert client.notes[3] == "cpu, preset balanced: --token-budget 64 --prefill-budget 64 --max-rows 16"
        assert client.settings == settings().resolved(cuda=False)
        request = request_of("a", range(40), max_tokens=20)
        events = await collect(client, request)
        assert tokens_of(events) == bench().run([request])["a"].tokens
        assert [event.finish for event in events] == [None] * 19 + [FinishReason.LENGTH]
        stats = await client.stats()
        assert (stats.generated_tokens, stats.finished) == (20, {"length": 1})
        assert client.is_alive
    assert not client.is_alive
    assert not exists(client.pid)
    with pytest.raises(UnavailableError):
        client.limits  # noqa: B018
    with pytest.raises(UnavailableError):
        await collect(client, request)
    assert (await client.stats()).generated_tokens == 20
    await client.close()
    assert capfd.readouterr().err == ""


async def test_a_reader_that_is_behind_is_told_that_more_is_there(settings, request_of):
    request = request_of("a", range(40), max_tokens=20)
    async with running(settings()) as client:
        at_once = await collect(client, request)
        async with aclosing(client.stream(request)) as stream:
            events = [await anext(stream)]
            await quiet(client, ended=2)
            events += [event async for event in stream]
    assert tokens_of(events) == tokens_of(at_once)
    assert [event.more for event in events[1:]] == [True] * 18 + [False]


async def test_nothing_waits_for_what_comes_behind_a_death(settings, request_of):
    request = request_of("a", [1], max_tokens=1000)
    async with running(settings()) as client, aclosing(client.stream(request)) as stream:
        events = [await anext(stream)]
        while (await client.stats()).generated_tokens < 20:
            await asyncio.sleep(0.001)
        client.kill()
        while client.is_alive:
            await asyncio.sleep(0.01)

        async def read_on() -> None:
            async for event in stream:
                events.append(event)

        with pytest.raises(EngineError, match="killed by signal 9"):
            await read_on()
    assert len(tokens_of(events)) >= 20
    assert not any(event.more for event in events[1:])


async def test_leaving_a_stream_frees_what_it_held(settings, request_of):
    async with running(settings()) as client:
        async with aclosing(client.stream(request_of("closed", range(30), max_tokens=1000))) as stream:
            await anext(stream)
        task = asyncio.create_task(collect(client, request_of("cancelled", range(50), max_tokens=1000)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stats = await quiet(client, ended=2)
        assert stats.finished == {"abort": 2}
        again = await collect(client, request_of("closed", range(30), max_tokens=2))
        assert len(tokens_of(again)) == 2


async def test_abort_gives_a_last_event(settings, request_of):
    async with running(settings()) as client:
        stream = client.stream(request_of("a", range(30), max_tokens=1000))
        events = [await anext(stream)]
        await client.abort("a")
        await client.abort("unknown")
        events += [event async for event in stream]
        assert events[-1].finish is FinishReason.ABORT
        assert len(events) < 1000
        await quiet(client)


async def test_refusals_reach_the_stream(settings, request_of):
    async with running(settings(max_waiting=1, max_rows=1, max_context=64)) as client:
        with pytest.raises(RequestError, match="64"):
            await collect(client, request_of("long", range(64)))
        with pytest.raises(RequestError, match="vocabulary"):
            await collect(client, request_of("ids", [512]))
        first = asyncio.create_task(collect(client, request_of("same", range(9), max_tokens=40)))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="same"):
            await collect(client, request_of("same", range(9)))
        many = [collect(client, request_of(f"m{i}", range(9))) for i in range(8)]
        results = await asyncio.gather(*many, return_exceptions=True)
        assert any(isinstance(result, OverloadedError) for result in results)
        assert len(tokens_of(await first)) == 40


async def test_sixty_four_streams_a_third_of_them_cancelled(settings, request_of):
    rng = random.Random(5)
    requests = [
        request_of(f"r{i}", [rng.randrange(512) for _ in range(rng.randrange(1, 80))], max_tokens=24)
        for i in range(64)
    ]

    async def leave_early(client, request):
        async with aclosing(client.stream(request)) as stream:
            async for _ in stream:
                return

    async with running(settings(max_rows=16, max_context=128, kv_memory=3 << 20)) as client:
        results = await asyncio.gather(
            *(leave_early(client, r) if i % 3 == 0 else collect(client, r) for i, r in enumerate(requests))
        )
        stats = await quiet(client)
        assert stats.kv_blocks_held == 0
        assert stats.kv_blocks_free + stats.kv_blocks_cached == stats.kv_blocks_total
        assert stats.finished["length"] >= 42
        for i, result in enumerate(results):
            if i % 3:
                assert result[-1].finish is FinishReason.LENGTH
                assert len(tokens_of(result)) == 24
        alone = await collect(client, requests[1])
        assert tokens_of(alone) == tokens_of(results[1])


async def test_a_killed_engine_is_reported_everywhere(settings, request_of):
    deaths = []
    async with running(settings(), on_death=deaths.append) as client:
        stream = client.stream(request_of("a", range(30), max_tokens=1000))
        await anext(stream)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="killed by signal 9"):
            async for _ in stream:
                pass
        assert not client.is_alive
        assert [error.message for error in deaths] == ["the engine process was killed by signal 9"]
        with pytest.raises(UnavailableError, match="killed by signal 9"):
            await collect(client, request_of("b", [1]))
        stats = await client.stats()
        assert stats.prompt_tokens == 30
        assert stats.seconds_since_step == 0.0


async def test_a_hanging_engine_shows_in_the_statistics_and_can_be_closed(settings, request_of, monkeypatch):
    monkeypatch.setattr("mosso.engine.client.CLOSE_SECONDS", 0.2)
    async with running(settings()) as client:
        task = asyncio.create_task(collect(client, request_of("a", range(30), max_tokens=1000)))
        while (await client.stats()).generated_tokens < 3:
            await asyncio.sleep(0.01)
        os.kill(client.pid, signal.SIGSTOP)
        while (await client.stats()).seconds_since_step < 0.2:
            await asyncio.sleep(0.01)
    with pytest.raises(UnavailableError, match="stopped"):
        await task
    assert not exists(client.pid)


async def test_signals_of_the_terminal_are_the_parents_business(settings, request_of):
    async with running(settings()) as client:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(client.pid, number)
        assert len(tokens_of(await collect(client, request_of("a", [1, 2])))) == 12


def test_signals_of_the_terminal_do_not_end_an_engine_that_just_begins(capfd):
    """Also while its interpreter starts, and while it imports what it will ignore them with."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = client_module._spawn(theirs)
        for _ in range(40):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
    assert process.wait(60) == 0
    assert capfd.readouterr().err == ""
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(GROUP_SIGNALS), "they still reach us"


async def test_load_errors_arrive_as_themselves(settings, tmp_path, capfd):
    with pytest.raises(UsageError, match="nowhere"):
        await EngineClient.start(settings(model=tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="--kv-memory"):
        await EngineClient.start(settings(kv_memory=1000))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in settings().model.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes()[: 1 << 14])
    with pytest.raises(CheckpointError) as caught:
        await EngineClient.start(settings(model=damaged))
    assert caught.value.file is not None
    assert capfd.readouterr().err == ""


@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen[bytes]]:
    """The engines that this thread starts: in others there may be engines of whoever serves other tests."""
    processes: list[subprocess.Popen[bytes]] = []
    spawn, here = client_module._spawn, threading.get_ident()

    def recorded(*arguments: object) -> subprocess.Popen[bytes]:
        process = spawn(*arguments)
        if threading.get_ident() == here:
            processes.append(process)
        return process

    monkeypatch.setattr(client_module, "_spawn", recorded)
    return processes


async def test_death_while_loading(settings, started, monkeypatch, tmp_path):
    endless = """
import time, mosso.model.loading as loading
loading.load_weights = lambda *_, **__: time.sleep(1000)
"""
    monkeypatch.setenv("PYTHONPATH", at_start(tmp_path, ENGINE, endless))

    def kill(_):
        started[0].kill()

    with pytest.raises(EngineError, match="killed by signal 9 while it loaded the model"):
        await EngineClient.start(settings(), on_progress=kill)


async def test_a_start_that_is_given_up_leaves_no_process(settings, started):
    def give_up(_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await EngineClient.start(settings(), on_progress=give_up)
    (process,) = started
    assert not exists(process.pid)


PARENT = """
import asyncio, sys, json, os
from pathlib import Path
from mosso.engine.client import EngineClient
from mosso.engine.settings import EngineSettings
async def main():
    client = await EngineClient.start(EngineSettings(Path(sys.argv[1]), threads=1, kv_memory=16 << 20))
    print(json.dumps(client.pid), flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


async def test_the_engine_dies_with_its_parent(model):
    with subprocess.Popen([sys.executable, "-c", PARENT, str(model)], stdout=subprocess.PIPE) as parent:
        pid = json.loads(await asyncio.to_thread(parent.stdout.readline))
        assert exists(pid)
        parent.kill()
    await gone(pid)


async def test_an_idle_engine_uses_no_cpu(settings, request_of):
    def cpu_ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    async with running(settings(threads=2)) as client:
        await collect(client, request_of("a", range(30)))
        await asyncio.sleep(0.1)
        before = cpu_ticks(client.pid)
        await asyncio.sleep(0.5)
        assert cpu_ticks(client.pid) - before < 15  # of the 50 that one spinning thread would take


async def test_an_engine_that_cannot_go_on_says_why(settings, request_of, capfd, monkeypatch, tmp_path):
    """The child's forward pass is broken from outside: every step raises."""
    broken = """
import mosso.model.paged
def broken(*_, **__): raise RuntimeError('broken kernel')
mosso.model.paged.forward = broken
"""
    monkeypatch.setenv("PYTHONPATH", at_start(tmp_path, ENGINE, broken))
    async with running(settings()) as client:
        for name in ("a", "b"):
            (event,) = await collect(client, request_of(name, [1]))
            assert event.finish is FinishReason.ERROR
            assert "broken kernel" in event.error
        with pytest.raises(EngineError, match=r"3 steps in a row failed.*broken kernel"):
            await collect(client, request_of("c", [1]))
        assert not client.is_alive
    assert "broken kernel" in capfd.readouterr().err
