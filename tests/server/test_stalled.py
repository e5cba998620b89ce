"""A client that keeps its connection but reads nothing."""

import json
import logging
import socket

from mosso.server import sse

BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


def test_a_client_that_never_reads_counts_as_gone(serve, soon, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sse, "SEND_SECONDS", 0.2)
    server = serve("<|channel|>final<|message|>" + "x" * 100_000)
    server.source.max_context = 200_000
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(server.address)
        sock.sendall(HEAD + BODY)
        soon(lambda: len(server.source.aborted) == 1, 120)
        soon(lambda: server.app.state.lifecycle.active == 0)
        soon(lambda: "gone=True" in caplog.text)
    assert [record for record in caplog.records if record.exc_info] == []
