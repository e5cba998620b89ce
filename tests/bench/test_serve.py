"""The load generator: what it makes of answers, whatever the cuts, and of servers that fail."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import session_of

from mosso.bench.serve import Load, after, dechunked, events, measure_here
from mosso.cli.bench_overhead import tell_times
from mosso.cli.main import main

FAKE = Path(__file__).parents[1] / "fakes" / "sse_server.py"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, str(FAKE), "1000", "20"], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.mark.parametrize("seed", range(20))
def test_any_cuts_give_the_same_events(seed) -> None:
    rng = random.Random(seed)
    lines = [b"x" * rng.randrange(1, 40) for _ in range(30)]
    text = b"".join(b"data: %b\r\n\n: a comment\n\n" % line for line in lines)
    body, head = b"", b"HTTP/1.1 200 OK\r\n\r\n"
    while text:
        size = rng.randrange(1, 50)
        body += b"%X;a=b\r\n%b\r\n" % (len(text[:size]), text[:size])
        text = text[size:]
    raw, pieces = head + body + b"0\r\n\r\n", []
    while raw:
        size = rng.choice((1, 2, 3, 50))
        pieces.append((float(len(pieces)), raw[:size]))
        raw = raw[size:]
    found = list(events(dechunked(after(len(head), pieces))))
    assert [data for _, data in found] == lines
    moments = [moment for moment, _ in found]
    assert moments == sorted(moments)
    assert moments[0] < moments[-1] < len(pieces)


def test_an_event_has_the_moment_of_its_last_byte() -> None:
    pieces = [(1.0, b"7\r\ndata: a\r"), (2.0, b"\n1\r\n\n"), (3.0, b"\r\n0\r\n\r\n")]
    assert list(events(dechunked(pieces))) == [(2.0, b"a")]


@pytest.mark.parametrize("rate", [None, 200.0])
async def test_every_token_is_counted(url, rate) -> None:
    found = await measure_here(f"{url}/v1", "fake", Load(users=4, requests=10, words=3, output=20, rate=rate))
    assert (found["failed"], found["first_error"]) == (0, None)
    assert (found["users"], found["rate"]) == ((4, None) if rate is None else (None, rate))
    assert found["output_tokens"] == 200
    assert found["prompt_tokens"] == 70
    assert set(found["first_token_ms"]) == {"p50", "p90", "p99"}
    assert 0 < found["first_token_ms"]["p50"] <= found["first_token_ms"]["p99"]
    assert found["per_token_ms"]["p50"] > 0


async def answered(reply: bytes, load: Load) -> tuple[dict, list[bytes]]:
    """What is measured of a server that sends `reply` to everything, and what it was sent."""
    seen = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        seen.append(head + await reader.readexactly(int(length.split(b":")[1])))
        writer.write(reply)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await measure_here(f"http://127.0.0.1:{port}/v1", "m", load), seen


ONE = Load(users=1, requests=1, words=5, output=9)
OK = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STRANGE = (
    b"[1, 2]",
    b"null",
    b"[" * 100_000,
    b'{"choices": 3}',
    b'{"choices": [3]}',
    b'{"choices": [{"delta": "x"}]}',
    b'{"usage": 7}',
    b'{"usage": {"prompt_tokens": 1}}',
    b'{"usage": {"prompt_tokens": 1, "completion_tokens": null}}',
    b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1e999}}',
)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\nno such model", "no such model"),
        (OK + b'data: {"choices": [{"text": "a"}]}\n\n', "ended before its end"),
        (OK + b'data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n', "out of memory"),
        (OK + b"data: {not json\n\n", "not JSON"),
        (b"", "closed the connection"),
        *((OK + b"data: " + data + b"\n\ndata: [DONE]\n\n", "no answer") for data in STRANGE),
        (CHUNKED + b"zz\r\nfoo", "no answer"),
        (CHUNKED + b"-5\r\nfoo", "a chunk of -5 bytes"),
    ],
)
async def test_a_failure_is_counted_and_named(reply, said) -> None:
    found, _ = await answered(reply, ONE)
    assert found["failed"] == 1
    assert said in found["first_error"]


@pytest.mark.parametrize("reply", [b"", OK + b'data: {"choices": [{"text": "a"}]}\n\n'])
async def test_a_server_that_says_no_more_is_given_up(monkeypatch, reply) -> None:
    monkeypatch.setattr("mosso.bench.serve.SILENCE_SECONDS", 0.1)
    told = asyncio.Event()

    async def serve(reader, writer):
        writer.write(reply)
        await told.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = await measure_here(f"http://127.0.0.1:{port}/v1", "m", ONE)
        told.set()
    assert found["failed"] == 1
    assert found["first_error"] == "the server sent nothing for 0.1 s"


async def test_nobody_there_is_a_failure() -> None:
    found = await measure_here("http://127.0.0.1:9/v1", "m", ONE)
    assert found["failed"] == 1
    assert "Error" in found["first_error"]


async def test_opening_and_closing_events_are_no_tokens() -> None:
    deltas = ({"role": "assistant", "content": ""}, {"reasoning": "a"}, {"content": "b"}, {})
    lines = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
    lines += [json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}), "[DONE]"]
    found, _ = await answered(OK + "".join(f"data: {line}\n\n" for line in lines).encode(), ONE)
    assert found["failed"] == 0
    assert found["output_tokens"] == 2
    assert list(found["between_events_ms"]) == ["p50"]  # one gap


async def test_what_is_asked_for() -> None:
    _, (call,) = await answered(b"", Load(users=1, requests=1, words=5, output=9, full=True))
    head, _, body = call.partition(b"\r\n\r\n")
    asked = json.loads(body)
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert len(asked["messages"][0]["content"].split()) == 5
    assert (asked["max_tokens"], asked["min_tokens"], asked["ignore_eos"]) == (9, 9, True)
    _, (call,) = await answered(b"", Load(users=1, requests=1, words=5, output=9, completions=True))
    head, _, body = call.partition(b"\r\n\r\n")
    asked = json.loads(body)
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert len(asked["prompt"].split()) == 5
    assert "ignore_eos" not in asked


async def test_a_server_that_asks_for_a_key_gets_it() -> None:
    _, (call,) = await answered(b"", ONE)
    assert b"Authorization" not in call
    _, (call,) = await answered(b"", replace(ONE, api_key="sk-1"))
    assert b"\r\nAuthorization: Bearer sk-1\r\n" in call


def test_the_command_hands_on_key_and_model(url, monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asked = []

    def measured(*told: object) -> dict[str, object]:
        asked.append(told)
        return {
            "failed": 0,
            "output_rate": 1.0,
            "seconds": 1.0,
            "prompt_tokens": 1,
            "output_tokens": 1,
            "first_token_ms": {},
            "per_token_ms": {},
            "between_events_ms": {},
        }

    monkeypatch.setattr("mosso.bench.serve.measure", measured)
    for flags in ((), ("--api-key", "sk-1", "--name", "other")):
        assert CliRunner().invoke(main, ["bench", "serve", url, *flags]).exit_code == 0
    assert [(name, load.api_key) for _, name, load in asked] == [("fake", None), ("other", "sk-1")]


@pytest.mark.parametrize("flag", [("--api-key", "sk-1"), ("--api-key=sk-1",)])
def test_a_key_is_in_no_result(url, monkeypatch, flag) -> None:
    arguments = ["bench", "serve", url, "--requests", "2", *flag]
    monkeypatch.setattr("sys.argv", ["mosso", *arguments])
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "sk-1" not in result.output
    assert json.loads(result.output.splitlines()[-1])["command"].startswith(
        f"mosso bench serve {url} --requests 2"
    )


def test_the_command_ends_in_json(url) -> None:
    result = CliRunner().invoke(main, ["bench", "serve", url, "--rate", "500", "--requests", "5"])
    assert result.exit_code == 0, result.output
    assert result.stderr == f"5 requests to {url}/v1 from 500 requests/s\n"
    *said, last = result.stdout.splitlines()
    assert json.loads(last)["output_tokens"] == 100
    assert "35 tokens in, 100 out" in said[0]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the processes are counted in /proc")
@pytest.mark.parametrize(
    "call",
    [
        "serve import Load, measure; load = (Load(1, 1, 5, 9),)",
        "overload import Overload, measure; load = (Overload(), print)",
    ],
)
def test_the_load_ends_with_the_command_that_was_killed(call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        silent.settimeout(120)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        code = f"from mosso.bench.{call}\nif __name__ == '__main__': measure({url!r}, 'm', *load)"
        command = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        try:
            with silent.accept()[0]:
                command.kill()
                command.wait()
                end = time.monotonic() + 60
                while left := session_of(command.pid):
                    assert time.monotonic() < end, f"{left} are left"
                    time.sleep(0.05)
        finally:
            for pid in session_of(command.pid):
                os.kill(pid, signal.SIGKILL)


def test_users_and_a_rate_exclude_each_other(url) -> None:
    result = CliRunner().invoke(main, ["bench", "serve", url, "--users", "2", "--rate", "3"])
    assert result.exit_code == 1
    assert "--rate stands instead of --users" in result.stderr


def test_times_that_were_not_seen_have_no_line(capsys) -> None:
    tell_times({"first_token_ms": {"p50": 1.0}, "per_token_ms": {}, "between_events_ms": {}})
    assert capsys.readouterr().out == "first_token_ms: p50 1.00\n"
