"""Bytes that no well-kept client sends, and offers that every Java client makes."""

import json
import logging
import socket

import httpx
import pytest
import uvicorn

from mosso.server import run
from mosso.server.protocol import MAX_HEAD_BYTES

CHAT = "/v1/chat/completions"


def request_bytes(prompt: str, *headers: str, **fields: object) -> bytes:
    payload = json.dumps({"messages": [{"role": "user", "content": prompt}]} | fields).encode()
    lines = [f"POST {CHAT} HTTP/1.1", "Host: x", f"Content-Length: {len(payload)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + payload


def reply(server, *pieces: bytes) -> tuple[int, dict]:
    """Status and JSON body of the first answer."""
    with socket.create_connection(server.address, timeout=60) as sock:
        for piece in pieces:
            sock.sendall(piece)
        file = sock.makefile("rb")
        status = int(file.readline().split()[1])
        length = 0
        while (line := file.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return status, json.loads(file.read(length))


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x00garbage\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_not_http_gets_an_error_of_the_usual_shape(server, data):
    status, body = reply(server, data)
    assert status == 400
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["code"] == "invalid_http"


def test_a_head_without_end_is_refused(server):
    status, body = reply(server, b"GET /health HTTP/1.1\r\nX: ", b"a" * (MAX_HEAD_BYTES + 1))
    assert (status, body["error"]["code"]) == (400, "invalid_http")
    assert str(MAX_HEAD_BYTES) in body["error"]["message"]


def test_large_bodies_are_no_heads(server):
    status, body = reply(server, request_bytes("x" * 4 * MAX_HEAD_BYTES, model="unknown"))
    assert (status, body["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["Upgrade", "upgrade"])
def test_an_offer_to_upgrade_costs_no_body(server, name):
    offer = ("Connection: Upgrade, HTTP2-Settings", f"{name}: h2c", "HTTP2-Settings: AAMAAABkAAQBAAAA")
    status, body = reply(server, request_bytes("hi", *offer))
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "the Hallö"


@pytest.mark.parametrize("stream", [True, False])
def test_a_hang_up_ends_the_pipelined_request_that_runs(serve, gate, soon, caplog, stream):
    caplog.set_level(logging.WARNING)
    server = serve()
    server.source.gate = gate(0)
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(request_bytes("one", stream=stream) + request_bytes("two"))
        soon(lambda: len(server.source.open) == 1)
    soon(lambda: len(server.source.aborted) == 1)
    soon(lambda: server.app.state.lifecycle.active == 0)
    assert caplog.records == []


async def test_idle_connections_outlive_the_clients_patience(monkeypatch):
    """Else a request now and then meets a connection that the server is closing."""
    seen: list[uvicorn.Config] = []

    class Recorder(run.Server):
        async def serve(self, sockets=None):
            seen.append(self.config)

    monkeypatch.setattr(run, "Server", Recorder)
    app = type("App", (), {"state": type("State", (), {"lifecycle": None})})()
    await run.serve_async(app, None)
    assert seen[0].timeout_keep_alive > 2 * httpx.Limits().keepalive_expiry
