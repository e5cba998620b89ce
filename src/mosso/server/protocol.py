"""One HTTP/1.1 connection: uvicorn's, with what it leaves open for strangers' bytes closed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mosso.api.errors import error_json
from mosso.core.errors import RequestError

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

MAX_HEAD_BYTES = 64 << 10
"""Request line and headers; one network read more may arrive before it is noticed."""
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class Connection(HttpToolsProtocol):
    """Differs from its base in four things.

    - A request that is not HTTP gets an error of the usual shape.
    - A head has a largest size.
    - Offers to upgrade are ignored, as RFC 9110 (7.8) allows: the parser would drop the body behind one, and
      Java's HttpClient offers h2c with every request.
    - A hang-up ends the pipelined request that runs, not only the one that was read last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._completed = False  # a message ended in the latest read; a head after it is short yet
        self._running: RequestResponseCycle | None = None

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nignored-upgrade:", head) + end + rest
        self._completed = False
        super().data_received(data)
        if self._in_head and not self._completed:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The request's head is over the limit of {MAX_HEAD_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes, self._completed = True, 0, True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        body = error_json(RequestError(msg, code="invalid_http"))
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
