"""Wrong on purpose: a server that answers what a function says, one that spoils another's answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

Respond = Callable[[str, str, bytes], tuple[int, str, bytes]]
"""(method, path, body) → (status, content type, body)"""


@contextmanager
def answering(respond: Respond) -> Iterator[str]:
    """The URL of a server that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, kind, answer = respond(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            try:
                self.wfile.write(answer)
            except OSError:  # the client has hung up
                self.close_connection = True

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def spoiled(url: str, spoil: Callable[[str], str]) -> Iterator[str]:
    """The URL of a server that answers what `url` does, with each body's text changed."""

    def respond(method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        headers = {"Content-Type": "application/json"}
        answer = http.request(method, path, content=body, headers=headers)
        return answer.status_code, answer.headers["content-type"], spoil(answer.text).encode()

    with httpx.Client(base_url=url, timeout=120) as http, answering(respond) as front:
        yield front
