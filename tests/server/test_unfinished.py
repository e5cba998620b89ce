"""Connections over which no whole request comes, over real sockets."""

import json
import logging
import socket
import time

import pytest

from mosso.server import protocol

BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()


def head(*lines: str, length: int = len(BODY)) -> bytes:
    asked = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines]
    return "\r\n".join([*asked, "", ""]).encode()


@pytest.fixture
def impatient(monkeypatch, serve):
    """serve(...) of a server that waits a short time only, however fast bytes come.

    A second: a busy machine may take a part of one between a client's connecting and its first bytes.
    """
    monkeypatch.setattr(protocol, "WHOLE_SECONDS", 1.0)
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
def test_a_request_that_does_not_come_whole_is_refused(impatient, soon, caplog, part):
    caplog.set_level(logging.WARNING)
    server = impatient()
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(part)
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    soon(lambda: server.app.state.lifecycle.active == 0)
    assert caplog.records == []


def test_who_sends_nothing_is_left(impatient):
    with socket.create_connection(impatient().address, timeout=60) as sock:
        assert everything(sock) == b""


def test_drops_do_not_help(impatient):
    server = impatient()
    with socket.create_connection(server.address, timeout=60) as sock:
        for byte in head(length=10_000):
            try:
                sock.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.02)
        assert not everything(sock).startswith(b"HTTP/1.1 200")


def test_a_second_request_has_its_own_time(impatient):
    server = impatient()
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(head() + BODY + head()[:-2])
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1 408 Request Timeout") == 1


def test_a_large_body_has_more_time(impatient, monkeypatch):
    monkeypatch.setattr(protocol, "SLOWEST", 1_000)
    server = impatient()
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 20_000}], "model": "none"}).encode()
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(head(length=len(body)) + body[:-1])
        time.sleep(1.5)
        sock.sendall(body[-1:])
        assert sock.recv(100).startswith(b"HTTP/1.1 404")


def test_an_answer_that_takes_long_is_no_request_that_does(impatient, gate, soon):
    server = impatient()
    server.source.gate = gate(0)
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(head() + BODY)
        soon(lambda: server.source.open)
        sock.sendall(head()[:20])  # and while it is worked on, a part of the next one
        time.sleep(1.5)
        server.source.gate.open()
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"HTTP/1.1 408 " in answer


def test_what_was_answered_before_its_end_is_not_answered_again(impatient):
    server = impatient(max_body_bytes=100)
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(head(length=10_000))
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_idle_connections_are_kept(impatient):
    server = impatient()
    with socket.create_connection(server.address, timeout=60) as sock:
        for _ in range(2):
            sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200")
            time.sleep(1.5)
