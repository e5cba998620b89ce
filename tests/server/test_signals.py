"""SIGTERM on a real process: what is in hand is finished, nothing new begins, the process leaves."""

import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx

SCRIPT = Path(__file__).parents[1] / "fakes" / "slow_server.py"
BODY = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


@contextmanager
def process(drain_seconds: float, tokens: int, *held: Path):
    command = [sys.executable, str(SCRIPT), str(drain_seconds), str(tokens), *map(str, held)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            url = child.stdout.readline().strip()
            assert url.startswith("http://"), child.stderr.read()
            with httpx.Client(base_url=url, timeout=60) as http:
                yield child, http
        finally:
            child.kill()


def test_streams_in_hand_are_finished(soon, tmp_path):
    with process(200, 100, tmp_path / "go") as (child, http):
        with http.stream("POST", "/v1/chat/completions", json=BODY) as response:
            lines = response.iter_lines()
            next(lines)
            child.send_signal(signal.SIGTERM)
            soon(lambda: http.get("/v1/health/ready").status_code == 503)
            assert http.post("/v1/chat/completions", json=BODY).status_code == 503
            (tmp_path / "go").touch()
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert sum('"content":"x"' in line for line in rest) == 100
        assert child.wait(60) == 0
        assert child.stdout.read() == "aborted 0\n"


def test_the_drain_is_bounded():
    with process(0.3, 100_000) as (child, http):
        with http.stream("POST", "/v1/chat/completions", json=BODY) as response:
            lines = response.iter_lines()
            next(lines)
            child.send_signal(signal.SIGTERM)
            *_, last, _ = lines
            assert "service_unavailable_error" in last
        assert child.wait(60) == 0
        assert child.stdout.read() == "aborted 1\n"


def test_a_second_signal_leaves_at_once():
    with (
        process(1000, 100_000) as (child, http),
        http.stream("POST", "/v1/chat/completions", json=BODY) as response,
    ):
        lines = response.iter_lines()  # kept: the stream stays open as long as this lives
        next(lines)
        child.send_signal(signal.SIGTERM)
        while "draining" not in child.stderr.readline():
            pass
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0


def test_an_idle_server_leaves_at_once():
    with process(1000, 1) as (child, http):
        assert http.get("/version").status_code == 200
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
