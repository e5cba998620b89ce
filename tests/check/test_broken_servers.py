"""`mosso check` against servers that answer nonsense: it finds the faults and falls over none of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socketserver
import threading

import pytest
from click.testing import CliRunner
from http_fakes import answering

from mosso.check.examination import Outcome, Report, all_cases, chosen, examine
from mosso.cli import main
from mosso.core.errors import UsageError

ALL = all_cases()
LEAK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>42"


def examined(respond, names=()) -> Report:
    with answering(respond) as url:
        return asyncio.run(examine(url, chosen(names), timeout=60))


def chat(content: str) -> dict:
    message = {"role": "assistant", "content": content}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }


def leaking(method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
    """A server that hands out what the model said, Harmony and all."""
    if path == "/v1/models":
        answer: object = {"object": "list", "data": [{"id": "m", "object": "model"}]}
    elif path == "/v1/chat/completions":
        answer = chat(LEAK)
    else:
        return 404, "application/json", b'{"error": {"message": "not here"}}'
    return 200, "application/json", json.dumps(answer).encode()


def test_leaked_control_tokens_are_found():
    report = examined(leaking, ["models", "chat.shape", "responses", "harmony.clean"])
    ends = {result.name: result for result in report.results}
    assert ends["models.list"].outcome is ends["chat.shape"].outcome is Outcome.PASSED
    assert ends["harmony.clean"].outcome is Outcome.FAILED
    assert "<|channel|>" in ends["harmony.clean"].why
    assert ends["responses.create"].outcome is Outcome.SKIPPED
    assert not report.passed


def test_a_server_that_asks_for_a_key_is_not_examined_without():
    with pytest.raises(UsageError, match=r"asks for a key \(401\): give one that it takes with --api-key"):
        examined(lambda method, path, body: (401, "application/json", b'{"error": {"message": "no"}}'))


def test_a_server_without_errors_passes_no_case_of_errors():
    report = examined(leaking, ["errors"])
    passed = [result.name for result in report.results if result.outcome is Outcome.PASSED]
    assert passed == ["errors.path", "errors.after"]


JSON, SSE, LINES = "application/json", "text/event-stream", "application/x-ndjson"
GARBAGE = [
    (JSON, b""),
    (JSON, b"oops"),
    (JSON, b"null"),
    (JSON, b'{"choices": [], "data": [], "output": []}'),
    (JSON, b'{"choices": [[]], "data": {}, "output": [7]}'),
    (SSE, b"data: [DONE]\n\n"),
    (SSE, b"event: x\ndata: {\n\n"),
    (SSE, b'data: {"choices": [{"delta": 3}]}\n\n'),
    (LINES, b"7\n\xff\xfe\n"),
]


@pytest.mark.parametrize(("kind", "body"), GARBAGE)
def test_garbage_fails_every_case(kind: str, body: bytes):
    report = examined(lambda *_: (200, kind, body))
    assert [result.name for result in report.results if result.outcome is not Outcome.FAILED] == []
    assert all(result.why for result in report.results)


@pytest.mark.parametrize("status", [500, 302])
def test_no_case_passes_where_every_answer_is_an_error(status: int):
    report = examined(lambda *_: (status, "text/plain", b"no"))
    passed = [result.name for result in report.results if result.outcome is Outcome.PASSED]
    assert passed == []
    assert len(report.results) == len(ALL)


def test_a_server_without_this_api_is_no_conforming_one():
    assert not examined(lambda *_: (404, "application/json", b"{}")).passed


def test_the_command_says_what_failed_and_exits_with_1():
    with answering(leaking) as url:
        ran = CliRunner().invoke(main, ["check", url, "--only", "chat.shape", "--only", "harmony.clean"])
        told = CliRunner().invoke(main, ["check", f"{url}/v1", "--only", "chat", "--json"])
    assert ran.exit_code == told.exit_code == 1
    assert "pass" in ran.stdout
    assert "FAIL" in ran.stdout
    report = json.loads(told.stdout)
    assert report["model"] == "m"
    assert report["failed"] == sum(case["outcome"] == "failed" for case in report["cases"]) > 0


def test_the_command_exits_with_0_where_nothing_failed():
    with answering(leaking) as url:
        ran = CliRunner().invoke(main, ["check", url, "--only", "models", "--only", "ollama"])
    assert ran.exit_code == 0
    assert "1 passed, 0 failed, 3 skipped" in ran.stdout


def test_where_nobody_answers_there_is_no_report():
    ran = CliRunner().invoke(main, ["check", "http://127.0.0.1:9", "--only", "chat"])
    assert ran.exit_code == 1
    assert "no server answers" in ran.stderr
    ran = CliRunner().invoke(main, ["check", "nonsense://x"])
    assert ran.exit_code == 1
    assert "not an address" in ran.stderr


def test_a_group_that_is_none_is_named():
    with pytest.raises(UsageError, match="no case 'chta'"):
        chosen(["chta"])


def test_every_case_has_a_name_of_its_own():
    assert len({case.name for case in ALL}) == len(ALL)


def test_a_server_that_drips_for_ever():
    """Each read brings something, so only the answer as a whole can be late."""

    class Dripping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            with contextlib.suppress(OSError):
                while not over.wait(0.05):
                    self.request.sendall(b": still here\n")

    over = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            report = asyncio.run(examine(url, chosen(["chat.shape", "stream.order"]), timeout=1))
        finally:
            over.set()
            server.shutdown()
    assert {result.why for result in report.results} == {"no answer came in time"}


def test_what_a_server_says_is_shown_as_text():
    said = b'{"error": {"message": "\\ud800\\u001b]0;title\\u0007"}}'
    with answering(lambda *_: (500, "application/json", said)) as url:
        result = CliRunner().invoke(main, ["check", url, "--only", "chat.shape"])
    assert isinstance(result.exception, SystemExit)
    assert "title" in result.output
    assert not set("\x1b\x07") & set(result.output)
