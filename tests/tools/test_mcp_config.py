"""The mcpServers file: what other clients write is read, what is wrong is named."""

import json

import pytest

from mosso.core.errors import UsageError
from mosso.tools.mcp_config import HttpServer, StdioServer, read_config


def test_both_kinds_of_server(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "k1")
    servers = {
        "files": {
            "command": "npx",
            "args": ["-y", "server", ""],
            "env": {"A": "${KEY}", "B": ""},
            "cwd": "/",
        },
        "web": {"type": "http", "url": "https://x.example/mcp", "headers": {"X": "${NONE:-d}"}},
        "plain": {"url": "http://y.example/"},
        "off": {"command": "never", "disabled": True},
    }
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": servers}))
    assert read_config(file) == {
        "files": StdioServer("npx", ("-y", "server", ""), {"A": "k1", "B": ""}, "/"),
        "web": HttpServer("https://x.example/mcp", {"X": "d"}),
        "plain": HttpServer("http://y.example/"),
    }
    assert "k1" not in repr(HttpServer("u", {"a": "k1"}))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "mcpServers"),
        ('{"mcpServers": []}', "mcpServers"),
        ('{"mcpServers": {"a b": {"command": "x"}}}', "mcpServers.a b: a label"),
        ('{"mcpServers": {"a": 1}}', "mcpServers.a must be an object"),
        ('{"mcpServers": {"a": {}}}', "mcpServers.a.command is missing"),
        ('{"mcpServers": {"a": {"type": "http"}}}', "mcpServers.a.url is missing"),
        ('{"mcpServers": {"a": {"type": "sse", "url": "http://x"}}}', "type: stdio and http"),
        ('{"mcpServers": {"a": {"command": "x", "args": "y"}}}', "args must be a list"),
        ('{"mcpServers": {"a": {"command": "x", "args": [1]}}}', r"args\[0\] must be a string"),
        ('{"mcpServers": {"a": {"command": "x", "env": []}}}', "env must be an object"),
        ('{"mcpServers": {"a": {"command": "x", "wait": 1}}}', "mcpServers.a.wait is not a setting"),
        ('{"mcpServers": {"a": {"command": "${NOT_SET_HERE}"}}}', "NOT_SET_HERE is not set"),
        ('{"mcpServers": {"a": {"url": "ftp://x"}}}', "must start with http"),
        ('{"mcpServers": {"a": {"url": "http://[x"}}}', "must start with http"),
    ],
)
def test_mistakes_are_named(tmp_path, text, complaint):
    file = tmp_path / "mcp.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_config(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_config(tmp_path / "none.json")
