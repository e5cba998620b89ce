"""Log lines: their form, their request's id, and that nobody's text gets into them."""

from __future__ import annotations

import json
import logging
from datetime import datetime

import pytest
from mosso_fakes import SECRET, small_tokenizer

from mosso.core.errors import EngineError
from mosso.server.logs import JsonFormatter, TextFormatter, TextLog, configure
from mosso.server.record import current_id

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-oss-test", "messages": [{"role": "user", "content": SECRET}]}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": SECRET, "parameters": {"type": "object", "title": SECRET}},
}
CALLED = [
    {"role": "user", "content": "a"},
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "look", "arguments": f'{{"a": "{SECRET}"}}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": SECRET},
]


class Lines(logging.Handler):
    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logged():
    """logged(formatter): the lines of all loggers from now on, at the lowest level."""
    root, mosso = logging.getLogger(), logging.getLogger("mosso")
    levels, handlers = (root.level, mosso.level), []

    def start(formatter: logging.Formatter) -> list[str]:
        handlers.append(Lines(formatter))
        root.addHandler(handlers[-1])
        root.setLevel(logging.DEBUG)
        mosso.setLevel(logging.DEBUG)
        return handlers[-1].lines

    yield start
    root.setLevel(levels[0])
    mosso.setLevel(levels[1])
    for handler in handlers:
        root.removeHandler(handler)


def explode(request: object) -> None:
    raise ValueError(f"cannot take {SECRET}")


def harass(server) -> None:
    """Every way in which text could come into a line."""
    server.post(CHAT, BODY)
    server.post(CHAT, BODY | {"stream": True})
    server.post(CHAT, {"messages": SECRET})
    server.post(CHAT, BODY | {SECRET: 1})
    server.post(CHAT, BODY | {"stop": [SECRET] * 99})
    server.post(CHAT, BODY | {"tools": [TOOL]})
    server.post(CHAT, {"messages": CALLED, "tools": [TOOL]})
    server.post(CHAT, BODY | {"response_format": {"type": "json_schema", "json_schema": {"name": SECRET}}})
    server.http.post(CHAT, content=f'{{"a": "{SECRET}')
    server.post("/v1/completions", {"prompt": SECRET})
    server.post("/v1/responses", {"input": SECRET, "instructions": SECRET, "metadata": {"a": SECRET}})
    server.post("/v1/messages", {"model": "gpt-oss-test", "max_tokens": 9, "messages": BODY["messages"]})
    server.post("/api/chat", {"messages": BODY["messages"]})
    server.source.start_error = EngineError(f"burnt by {SECRET}")
    server.post(CHAT, BODY)
    server.source.start_error = None
    server.source.script = explode
    server.post(CHAT, BODY)


@pytest.mark.parametrize("formatter", [JsonFormatter(prompts=False), TextFormatter(prompts=False)])
def test_nobodys_text_gets_into_the_log(serve, logged, formatter) -> None:
    server = serve(f"<|channel|>analysis<|message|>{SECRET}<|end|>junk <|message|>{SECRET}<|return|>")
    lines = logged(formatter)
    harass(server)
    server.stop()
    ours = [line for line in lines if "httpcore" not in line and "httpx" not in line]
    assert len(ours) >= 15
    assert [line for line in ours if SECRET in line] == []
    assert any("ValueError" in line for line in ours), "the kind of a fault is told"
    assert any("start_error" in line or "mosso_fakes.py" in line for line in ours), "and where it was"


def test_the_form_of_json(serve, logged, soon) -> None:
    server = serve()
    lines = logged(JsonFormatter(prompts=False))
    answer = server.post(CHAT, BODY, headers={"x-request-id": "mine"}).json()
    soon(lambda: any("mosso.server" in line for line in lines))
    (line,) = [json.loads(line) for line in lines if '"logger": "mosso.server"' in line]
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line.pop("seconds") > 0
    assert line == {
        "level": "info",
        "logger": "mosso.server",
        "message": "request",
        "request_id": "mine",
        "method": "POST",
        "path": CHAT,
        "status": 200,
        "job": answer["id"],
        "prompt_tokens": answer["usage"]["prompt_tokens"],
        "cached_tokens": answer["usage"]["prompt_tokens_details"]["cached_tokens"],
        "completion_tokens": answer["usage"]["completion_tokens"],
    }


def test_a_fault_has_its_requests_id(serve, logged, soon) -> None:
    server = serve()
    lines = logged(JsonFormatter(prompts=False))
    server.source.script = explode
    server.post(CHAT, BODY, headers={"x-request-id": "mine"})
    soon(lambda: any('"level": "error"' in line for line in lines))
    (line,) = [json.loads(line) for line in lines if '"level": "error"' in line]
    assert line["request_id"] == "mine"
    assert line["exception"].endswith("ValueError")


def test_text_where_it_is_asked_for(serve, logged, soon) -> None:
    server = serve(watchers=[TextLog(small_tokenizer())])
    lines = logged(JsonFormatter(prompts=True))
    server.post(CHAT, BODY | {"n": 2})
    soon(lambda: len([line for line in lines if '"message": "text"' in line]) == 2)
    for line in (json.loads(line) for line in lines if '"message": "text"' in line):
        assert SECRET in line["prompt"]
        assert line["answer"].endswith("the Hallö")


def record_of(error: Exception | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("mosso", logging.ERROR, "f.py", 1, "%s failed", ("it",), info)


def chained() -> Exception:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as inner:
            raise ValueError(SECRET) from inner
    except ValueError as error:
        return error


def test_exceptions_without_their_messages() -> None:
    discreet = TextFormatter(prompts=False).format(record_of(chained()))
    assert SECRET not in discreet
    assert discreet.index("KeyError") < discreet.index("ValueError")
    assert "test_logs.py" in discreet
    assert SECRET in TextFormatter(prompts=True).format(record_of(chained()))


def test_a_line_of_text_has_the_requests_id() -> None:
    formatter = TextFormatter(prompts=False)
    assert formatter.format(record_of()).endswith("ERROR mosso: it failed")
    token = current_id.set("mine")
    try:
        assert formatter.format(record_of()).endswith("it failed request_id='mine'")
    finally:
        current_id.reset(token)


@pytest.mark.parametrize(("style", "start"), [("text", "20"), ("json", "{")])
def test_configure(capsys, style, start) -> None:
    root, mosso = logging.getLogger(), logging.getLogger("mosso")
    before = root.handlers[:], root.level, mosso.level
    root.handlers = []
    try:
        configure("debug", style, prompts=False)
        logging.getLogger("mosso.x").debug("ours")
        logging.getLogger("theirs").debug("theirs")
        logging.getLogger("theirs").info("louder")
        lines = capsys.readouterr().err.splitlines()
        assert [line.startswith(start) for line in lines] == [True, True]
        assert "ours" in lines[0]
        assert "louder" in lines[1]
    finally:
        root.handlers, level, own = before
        root.setLevel(level)
        mosso.setLevel(own)
