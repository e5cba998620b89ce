"""The overload bench: what it asks, and what it makes of a server that takes some and refuses the others."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from functools import partial

import click
import pytest
from click.testing import CliRunner
from http_fakes import answering
from steady_clock import SteadyClock

from mosso.bench.overload import Overload, measure, measure_here
from mosso.cli.bench_overload import tell
from mosso.cli.main import main
from mosso.core.errors import UsageError

SHORT = Overload(
    words=3,
    output=4,
    users=3,
    factor=3.0,
    alone_requests=4,
    capacity_seconds=1.0,
    seconds=1.0,
    api_key="sk-1",
)
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{}"
EVENTS = [json.dumps({"choices": [{"text": "a"}]}).encode()] * 4 + [
    json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode(),
    b"[DONE]",
]
ANSWERED = b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(b"data: " + event + b"\n\n" for event in EVENTS)


@pytest.fixture(autouse=True)
def _phases_outlast_a_pause(monkeypatch):
    """Else a second in which this process stands still is a phase without a request."""
    monkeypatch.setattr("mosso.bench.overload.time", SteadyClock())


@asynccontextmanager
async def busy_server(rows: int, refusal: bytes = REFUSED):
    """Takes `rows` requests at once, each for 10 ms, and refuses the others; the bodies that it saw."""
    seen, running = [], 0

    async def serve(reader, writer):
        nonlocal running
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nAuthorization: Bearer sk-1\r\n" in head  # else no answer
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        seen.append(json.loads(await reader.readexactly(int(length.split(b":")[1]))))
        if running < rows:
            running += 1
            await asyncio.sleep(0.01)
            running -= 1
            writer.write(ANSWERED)
        else:
            writer.write(refusal)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", seen


async def test_accepted_and_refused_are_told_apart(capsys):
    async with busy_server(rows=1) as (url, seen):
        found = await measure_here(url, "m", SHORT, print)
    alone, busy, flood = found["alone"], found["busy"], found["overload"]
    assert (alone["asked"], alone["accepted"], alone["refused"]) == (4, 4, 0)
    assert busy["refused"] > 0
    assert found["capacity"] == busy["accepted"] / 1.0
    assert found["asked_rate"] == 3 * found["capacity"]
    assert flood["asked"] == flood["accepted"] + flood["refused"]
    assert flood["accepted"] > 0
    assert flood["refused"] > 0
    assert (flood["failed"], flood["first_error"], flood["without_retry_after"]) == (0, None, 0)
    assert flood["whole_ms"]["p50"] >= 10
    assert flood["output_rate"] == 4 * flood["accepted"] / 1.0
    assert {(ask["max_tokens"], ask["min_tokens"], ask["ignore_eos"]) for ask in seen} == {(4, 4, True)}
    tell(found)
    said = capsys.readouterr().out
    assert (
        f"{flood['asked']} asked, {flood['accepted']} accepted, {flood['refused']} refused, 0 failed" in said
    )
    assert "whole_ms p99" in said
    assert said.startswith("alone: 2 requests, one after the other\ncapacity: 3 clients for 1 s\noverload: ")
    assert "\nalone again: 2 requests, one after the other\n" in said


async def test_a_refusal_that_does_not_say_when_is_counted():
    without = REFUSED.replace(b"retry-after: 1\r\n", b"")
    async with busy_server(1, without) as (url, _):
        flood = (await measure_here(url, "m", SHORT, print))["overload"]
    assert flood["without_retry_after"] == flood["refused"] > 0


async def test_a_server_that_fails_is_no_refusal(capsys):
    async with busy_server(1, b"HTTP/1.1 503 Service Unavailable\r\n\r\nout of order") as (url, _):
        found = await measure_here(url, "m", SHORT, print)
    flood = found["overload"]
    assert (flood["refused"], flood["first_error"]) == (0, "out of order")
    assert flood["failed"] == flood["asked"] - flood["accepted"] > 0


async def test_nobody_there():
    found = await measure_here("http://127.0.0.1:9/v1", "m", SHORT, print)
    assert (found["capacity"], found["overload"]["asked"]) == (0, 0)
    assert found["alone"]["failed"] == 4
    tell(found)


def test_phases_are_told_from_the_process_that_asks(capfd):
    measure("http://127.0.0.1:9/v1", "m", SHORT, partial(click.echo, err=True))
    said = capfd.readouterr()
    assert "capacity: 3 clients for 1 s\n" in said.err
    assert said.out == ""


def test_the_command_hands_on_key_and_model(monkeypatch):
    asked = []

    def measured(url, model, load, say):
        asked.append((url, model, load.api_key))
        raise UsageError("enough")

    monkeypatch.setattr("mosso.bench.overload.measure", measured)
    models = json.dumps({"object": "list", "data": [{"id": "first", "object": "model"}]}).encode()
    with answering(lambda *_: (200, "application/json", models)) as url:
        for flags in (("--api-key", "sk-1"), ("--api-key", "sk-1", "--name", "other")):
            CliRunner().invoke(main, ["bench", "overload", url, *flags])
    assert asked == [(f"{url}/v1", "first", "sk-1"), (f"{url}/v1", "other", "sk-1")]


def test_settings_of_a_server_elsewhere_are_refused():
    result = CliRunner().invoke(main, ["bench", "overload", "http://127.0.0.1:9", "--max-queue-seconds", "1"])
    assert result.exit_code == 1
    assert "--max-queue-seconds: the server at a URL" in result.output


@pytest.mark.parametrize("option", ["--factor", "--minutes", "--users", "--output"])
def test_nothing_is_no_load(option):
    result = CliRunner().invoke(main, ["bench", "overload", option, "0"])
    assert result.exit_code != 0
