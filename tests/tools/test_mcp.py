"""MCP servers as processes of their own: what they give, and what one that misbehaves costs."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from mcp_paths import PATIENT, PROGRAM

from mosso.tools.mcp import McpServer, Servers
from mosso.tools.mcp_config import HttpServer, StdioServer
from mosso.tools.tool import ToolServerError

STDIO = StdioServer(sys.executable, (PROGRAM,), {"TOKEN": "mine"})


@asynccontextmanager
async def connected(config, **limits):
    server = McpServer("box", config, replace(PATIENT, **limits))
    try:
        yield server
    finally:
        await server.close()


def is_running(process: int) -> bool:
    """Whether it is there and not just waiting to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # gone, now or while it is looked at
        return False


@pytest.fixture(params=["stdio", "http"])
def config(request):
    return STDIO if request.param == "stdio" else HttpServer(request.getfixturevalue("mcp_url"))


async def test_a_server_lists_its_tools_and_answers(config):
    async with connected(config) as server:
        tools = {tool.name: tool for tool in await server.tools()}
        assert tools["add"].description == "Adds two numbers."
        assert set(tools["add"].schema["properties"]) == {"a", "b"}
        assert not tools["wipe.all"].read_only
        answers = await asyncio.gather(*(server.call("add", json.dumps({"a": n, "b": 1})) for n in range(8)))
        assert [(answer.text, answer.failed) for answer in answers] == [(str(n + 1), False) for n in range(8)]
        assert await server.tools() is await server.tools()


async def test_a_failure_is_told_to_the_model(config):
    async with connected(config) as server:
        failed = await server.call("boom", "{}")
        assert failed.failed
        assert "boom" in failed.text
        unknown = await server.call("nothing", "{}")
        assert unknown.failed
        assert (await server.call("add", '{"a": 1}')).failed
        for arguments in ("{", "[1]", "[" * 100_000):
            wrong = await server.call("add", arguments)
            assert (wrong.text, wrong.code) == ("The arguments must be a JSON object.", -32602)
        assert (await server.call("add", '{"a": 1, "b": 1}')).text == "2"


async def test_a_long_answer_is_cut(config):
    async with connected(config, result_bytes=1000) as server:
        answer = await server.call("long", "{}")
        assert len(answer.text) < 1100
        assert answer.text.endswith("the result was too long]")


@pytest.mark.parametrize("tool", ["hang", "die", "flood"])
async def test_a_program_that_misbehaves_is_started_anew(tool):
    async with connected(STDIO) as server:
        assert (await server.call("add", '{"a": 1, "b": 1}')).text == "2"
        server._limits = replace(PATIENT, call_seconds=5)
        lost = await server.call(tool, "{}")
        server._limits = PATIENT
        assert lost.failed
        assert "box" in lost.text
        assert (await server.call("add", '{"a": 2, "b": 1}')).text == "3"


async def test_a_server_that_lies_is_not_believed():
    async with connected(STDIO) as server:
        assert (await server.call("lie", "{}")).text == "lied"
        assert (await server.call("add", '{"a": 2, "b": 1}')).text == "3"


async def test_what_a_program_sees_and_leaves_behind(monkeypatch):
    monkeypatch.setenv("SECRET", "of the server")
    async with connected(STDIO) as server:
        seen = json.loads((await server.call("environment", "{}")).text)
        assert seen["TOKEN"] == "mine"
        assert "SECRET" not in seen
        child = int((await server.call("child", "{}")).text)
        assert is_running(child)
    while is_running(child):  # it was killed with the group
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "config",
    [
        StdioServer("/no/such/program"),
        StdioServer(sys.executable, ("-c", "print('hello')")),
        StdioServer(sys.executable, (PROGRAM, "--mute")),
        HttpServer("http://127.0.0.1:9/mcp"),
    ],
    ids=["missing", "no server", "mute", "refused"],
)
async def test_a_server_that_cannot_be_reached(config):
    async with connected(config, connect_seconds=1) as server:
        with pytest.raises(ToolServerError, match="box"):
            await server.tools()
        lost = await server.call("add", "{}")
        assert lost.failed
        assert "box cannot be reached" in lost.text


async def test_an_endless_http_answer_ends(monkeypatch):
    async def endless(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        try:
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        except OSError:
            writer.close()

    listener = await asyncio.start_server(endless, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    async with listener, connected(HttpServer(url)) as server:
        with pytest.raises(ToolServerError):
            await server.tools()


async def test_a_caller_who_leaves_does_not_break_the_connection():
    async with connected(STDIO) as server:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.tools(), 0.01)
        hanging = asyncio.create_task(server.call("hang", "{}"))
        await asyncio.sleep(1)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert await server.tools()


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://a.example/mcp", True),
        ("https://a.example/mcp/more?x=1", True),
        ("https://a.example/mcpx", False),
        ("https://a.example/mcp/../admin", False),
        ("https://a.example/mcp/%2e%2e/admin", False),
        ("https://a.example:444/mcp", False),
        ("http://a.example/mcp", False),
        ("https://a.example.evil/mcp", False),
        ("https://a.example@evil/mcp", False),
        ("https://user@a.example/mcp", False),
        ("https://b.example/any/thing", True),
        ("https://[b/", False),
    ],
)
def test_urls_that_requests_may_name(url, allowed):
    servers = Servers({}, ("https://a.example/mcp", "https://b.example"))
    assert servers.allows(url) is allowed
    assert not Servers({}).allows(url)
