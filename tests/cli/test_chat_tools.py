"""`mosso chat` and `mosso serve` with MCP servers: real programs, a server that plays what a model says."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from mcp_paths import PROGRAM
from mosso_fakes import SETTINGS, ScriptedSource, harmony, small_tokenizer

from mosso.server.app import create_app
from mosso.server.run import serve
from mosso.server.settings import ServerSettings

TOKENIZER = small_tokenizer()
CALL = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"


@contextmanager
def model(script):
    """The URL of a server whose model follows the script."""
    source = ScriptedSource(script)
    source.max_context = 100_000
    app = create_app(source, TOKENIZER, ServerSettings(api=SETTINGS, drain_seconds=1.0))
    started, found = threading.Event(), []

    def on_start(url):
        found.append(url)
        started.set()

    thread = threading.Thread(target=serve, args=(app,), kwargs={"port": 0, "on_start": on_start})
    thread.start()
    assert started.wait(60)
    yield found[0]
    app.state.lifecycle.drain()
    thread.join(60)


@pytest.fixture
def config(tmp_path):
    def write(**servers):
        file = tmp_path / "mcp.json"
        file.write_text(json.dumps({"mcpServers": servers}))
        return file

    return write


def test_a_chat_runs_the_calls_of_its_servers(run, config):
    def script(request):
        prompt = TOKENIZER.decode(request.prompt, control=True)
        assert "type add = (_: {" in prompt
        assert "type wipe_all = () => any;" in prompt
        if "<|start|>functions.wipe_all to=assistant<|channel|>commentary<|message|>wiped<|end|>" in prompt:
            return harmony(TOKENIZER, "<|channel|>final<|message|>all done<|return|>")
        if "<|start|>functions.add to=assistant<|channel|>commentary<|message|>3<|end|>" in prompt:
            return harmony(TOKENIZER, CALL.format("wipe_all", "{}"))
        return harmony(TOKENIZER, CALL.format("add", '{"a":1,"b":2}'))

    program = {"command": sys.executable, "args": [PROGRAM]}
    with model(script) as url:
        result = run("chat", url, "--mcp-config", config(one=program, two=program), stdin="hi\n")
    assert result.exit_code == 0, result.output
    for shown in ("→ add", "← 3", "← wiped", "all done"):
        assert shown in result.output


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_a_wrong_file_is_said_before_the_model_loads(run, tmp_path, command):
    file = tmp_path / "mcp.json"
    file.write_text('{"mcpServers": {"a": {}}}')
    result = run(command, "--mcp-config", file)
    assert result.exit_code != 0
    assert "mcpServers.a.command is missing" in result.output


def test_a_server_that_does_not_answer_is_said(run, config):
    result = run("chat", "--mcp-config", config(gone={"command": "/no/such/program"}))
    assert result.exit_code != 0
    assert "gone cannot be reached" in result.output


def test_it_is_said_once(config):
    file = config(gone={"command": "/no/such/program"})
    command = [
        sys.executable,
        "-m",
        "mosso.cli",
        "chat",
        "--mcp-config",
        str(file),
    ]  # logging as it is by itself
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.stderr.count("gone cannot be reached") == 1


def test_a_url_that_is_none(run):
    result = run("serve", "--mcp-allow-url", "example.com")
    assert result.exit_code != 0
    assert "--mcp-allow-url example.com" in result.output
