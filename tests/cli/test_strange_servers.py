"""Commands at servers that are no OpenAI-compatible ones, and texts that are none."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from http_fakes import answering
from rich.console import Console

from mosso.cli.chat_command import Screen
from mosso.cli.generate_command import RETRY_SECONDS, _pause

MODELS = b'{"data": [{"id": "m"}]}'
HTML, JSON, SSE = "text/html", "application/json", "text/event-stream"
STRANGE = "does not answer as an OpenAI-compatible server does"


@pytest.mark.parametrize(
    ("status", "kind", "body", "said"),
    [
        (200, HTML, b"<html>", STRANGE),
        (200, JSON, b"[]", STRANGE),
        (200, JSON, b'{"data": [3]}', STRANGE),
        (200, JSON, b"[" * 100_000, STRANGE),
        (500, JSON, b"[" * 100_000, "answers 500"),
        (200, JSON, b'{"data": []}', "serves no model"),
        (302, HTML, b"", "answers 302"),
    ],
)
def test_a_list_of_models_that_is_none(run, status, kind, body, said, tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n')
    with answering(lambda *_: (status, kind, body)) as url:
        for arguments in (("chat", url), ("generate", tmp_path / "in.jsonl", tmp_path / "o", "--model", url)):
            result = run(*arguments, stdin="hello\n")
            assert result.exit_code == 1
            assert said in result.output


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (HTML, b"<html>", STRANGE),
        (SSE, b"data: [DONE]\n\n", STRANGE),
        (SSE, b"data: {\n\n", STRANGE),
        (SSE, b"data: []\n\n", STRANGE),
        (SSE, b"data: " + b"[" * 100_000 + b"\n\n", STRANGE),
        (SSE, b'data: {"choices": [3]}\n\n', STRANGE),
        (SSE, b'data: {"error": "out of order"}\n\n', "the server says: out of order"),
    ],
)
def test_a_stream_that_is_none(run, kind, body, said) -> None:
    def respond(method: str, path: str, _: bytes) -> tuple[int, str, bytes]:
        return (200, JSON, MODELS) if method == "GET" else (200, kind, body)

    with answering(respond) as url:
        result = run("chat", url, stdin="hello\n")
    assert result.exit_code == 1
    assert said in result.output


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (302, b"")])
@pytest.mark.parametrize("line", ['{"prompt": "hi"}', '{"custom_id": "a", "body": {"prompt": "hi"}}'])
def test_generate_takes_what_is_no_json_for_no_answer(run, tmp_path, status, body, line) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line + "\n")
    with answering(
        lambda method, *_: (200, JSON, MODELS) if method == "GET" else (status, HTML, body)
    ) as url:
        result = run("generate", source, target, "--model", url)
    assert result.exit_code == 1
    assert "1 failed" in result.output
    assert len(target.read_text().splitlines()) == 1


def test_generate_keeps_an_answer_of_several_lines(run, tmp_path) -> None:
    """A batch's result is one line, however the server breaks its JSON."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"custom_id": "a", "body": {"prompt": "hi"}}\n')
    answer = b'{\n "choices": []\n}'
    with answering(lambda method, *_: (200, JSON, MODELS if method == "GET" else answer)) as url:
        assert run("generate", source, target, "--model", url).exit_code == 0
    assert json.loads(target.read_text())["response"]["body"] == {"choices": []}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no folder that nobody can write to")
def test_generate_names_a_folder_that_cannot_be_written(run, tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n')
    with answering(lambda *_: (200, JSON, MODELS)) as url:
        result = run("generate", tmp_path / "in.jsonl", "/proc/out.jsonl", "--model", url)
    assert result.exit_code == 1
    assert "cannot write /proc/out.jsonl" in result.output


@pytest.mark.parametrize("said", ["Sat, 28 Nov 2026 23:12:38 GMT", "nan", "inf", "-1", "soon"])
def test_a_retry_after_that_is_no_number_of_seconds(said) -> None:
    assert _pause(httpx.Response(503, headers={"retry-after": said})) == RETRY_SECONDS
    assert _pause(httpx.Response(503, headers={"retry-after": "7"})) == 7


@pytest.mark.parametrize("url", ["http://[::1", f"http://{'a' * 64}.example", "http://a..b"])
def test_an_address_that_is_none(run, url) -> None:
    result = run("chat", url)
    assert result.exit_code == 1
    assert "is not an address" in result.output


def test_input_in_another_encoding_is_read(url) -> None:
    command = [sys.executable, "-m", "mosso.cli", "chat", url, "--max-tokens", "5"]
    ran = subprocess.run(command, input=b"caf\xe9\n", capture_output=True, timeout=60, env={**os.environ})
    assert ran.returncode == 0, ran.stderr
    assert b"5 tokens" in ran.stderr, "what is no answer goes there"


def test_an_argument_that_is_no_text(url) -> None:
    command = [sys.executable, "-m", "mosso.cli", "chat", url, "--system", b"\xe9"]
    ran = subprocess.run(command, input=b"hello\n", capture_output=True, timeout=60)
    assert ran.returncode == 1
    assert b"no valid text" in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_a_full_disk_behind_the_output() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "mosso.cli", "plan", "20b"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr == "mosso: cannot write: No space left on device\n"


def test_a_terminal_is_shown_nothing_that_it_obeys() -> None:
    text = "a\x1b]0;title\x07b\x9b2J\tc\r\nd\x7f"
    shown, piped = io.StringIO(), io.StringIO()
    for file in (shown, piped):
        screen = Screen(Console(file=file, force_terminal=file is shown, no_color=True), interactive=False)
        screen.write(text, "none")
        screen.line(text, "none")
    assert "\x1b]" not in shown.getvalue()
    assert not set("\x07\x9b\r\x7f") & set(shown.getvalue())
    assert "c\nd" in shown.getvalue()
    assert "\x1b]0;title" in piped.getvalue(), "what goes elsewhere is as it was"
