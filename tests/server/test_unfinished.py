"""Connections over which no whole request comes, over real sockets."""

import http.client
import json
import logging
import socket
import threading
import time

import pytest

from mosso.server import protocol

BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()


def head(*lines: str, length: int = len(BODY)) -> bytes:
    asked = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines]
    return "\r\n".join([*asked, "", ""]).encode()


class Patience:
    """The server's, which lasts until a test ends it, and is short then.

    A busy machine may stand still between any two lines of a client, for longer than a test could wait.
    """

    def __init__(self) -> None:
        self.looks = 0  # at the time, since the end of the patience
        self._over = threading.Event()
        self._read: set[protocol.Connection] = set()  # have read what was sent before that end
        self._look = protocol.Connection._look

    def end(self) -> None:
        self._over.set()

    def look(self, connection: protocol.Connection) -> None:
        if connection in self._read:
            self.looks += 1
            self._look(connection)
            return
        if self._over.is_set():  # one round of the event loop more, in which it reads what has come
            self._read.add(connection)
        connection._waits = connection.loop.call_later(0.02, connection._look)


@pytest.fixture
def patience():
    return Patience()


@pytest.fixture
def impatient(monkeypatch, serve, patience):
    """serve(...) of a server that waits a short time only, however fast bytes come."""
    monkeypatch.setattr(protocol.Connection, "_look", lambda connection: patience.look(connection))
    monkeypatch.setattr(protocol, "WHOLE_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "SLOWEST", 1 << 40)
    return serve


def everything(sock: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    pieces = []
    try:
        while piece := sock.recv(1 << 16):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


@pytest.mark.parametrize("part", [head()[:40], head(), head() + BODY[:10], b"\r\n"])
def test_a_request_that_does_not_come_whole_is_refused(impatient, patience, soon, caplog, part):
    caplog.set_level(logging.WARNING)
    server = impatient()
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(part)
        patience.end()
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    soon(lambda: server.app.state.lifecycle.active == 0)
    assert caplog.records == []


def test_who_sends_nothing_is_left(impatient, patience):
    patience.end()
    with socket.create_connection(impatient().address, timeout=60) as sock:
        assert everything(sock) == b""


def test_drops_do_not_help(impatient, patience):
    server = impatient()
    patience.end()
    with socket.create_connection(server.address, timeout=60) as sock:
        for byte in head(length=10_000):
            try:
                sock.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.02)
        assert not everything(sock).startswith(b"HTTP/1.1 200")


def test_a_second_request_has_its_own_time(impatient, patience):
    server = impatient()
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(head() + BODY + head()[:-2])
        patience.end()
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1 408 Request Timeout") == 1


def test_a_large_body_has_more_time(impatient, patience, soon, monkeypatch):
    monkeypatch.setattr(protocol, "SLOWEST", 1)
    server = impatient()
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 20_000}], "model": "none"}).encode()
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(head(length=len(body)) + body[:-1])
        patience.end()
        soon(lambda: patience.looks)
        sock.sendall(body[-1:])
        assert sock.recv(100).startswith(b"HTTP/1.1 404")


def test_an_answer_that_takes_long_is_no_request_that_does(impatient, patience, gate, soon):
    server = impatient()
    server.source.gate = gate(0)
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(head() + BODY)
        soon(lambda: server.source.open)
        sock.sendall(head()[:20])  # and while it is worked on, a part of the next one
        patience.end()
        soon(lambda: patience.looks)
        server.source.gate.open()
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"HTTP/1.1 408 " in answer


def test_what_was_answered_before_its_end_is_not_answered_again(impatient, patience):
    server = impatient(max_body_bytes=100)
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(head(length=10_000))
        patience.end()
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_idle_connections_are_kept(impatient, patience):
    server = impatient()
    with socket.create_connection(server.address, timeout=60) as sock:
        for _ in range(2):
            sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            response = http.client.HTTPResponse(sock)
            response.begin()
            response.read()  # all of it: head and body may come apart
            assert response.status == 200
            patience.end()
            time.sleep(1.5)
