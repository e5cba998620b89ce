"""One HTTP/1.1 connection: uvicorn's, with what it leaves open for strangers' bytes closed."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mosso.api.errors import error_json
from mosso.core.errors import RequestError

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

MAX_HEAD_BYTES = 64 << 10
"""Request line and headers; one network read more may arrive before it is noticed."""
WHOLE_SECONDS = 60.0
"""That a request, head and body, may take to come, and SLOWEST allows a large one more."""
SLOWEST = 16 << 10
"""Bytes a second: a request gets a second more for as many that have come."""
_CODES = {400: "invalid_http", 408: "request_timeout"}
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class Connection(HttpToolsProtocol):
    """Differs from its base in five things.

    - A request that is not HTTP gets an error of the usual shape.
    - A head has a largest size.
    - A request has a time in which to come whole; a connection over which none comes is closed after it.
    - Offers to upgrade are ignored, as RFC 9110 (7.8) allows: the parser would drop the body behind one, and
      Java's HttpClient offers h2c with every request.
    - A hang-up ends the pipelined request that runs, not only the one that was read last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._completed = False  # a message ended in the latest read; a head after it is short yet
        self._midway = False  # a message has begun and has not ended
        self._running: RequestResponseCycle | None = None
        self._waits: asyncio.TimerHandle | None = (
            None  # for the rest of a message, while there is one to come
        )
        self._began = 0.0  # when it was first waited for
        self._received = 0  # bytes that came since

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_rest()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nignored-upgrade:", head) + end + rest
        self._completed = False
        super().data_received(data)
        if self._completed:
            self._cancel_wait()
        if (self._midway or not self._completed) and not self.transport.is_closing():
            self._received += len(data)
            self._await_rest()
        if self._in_head and not self._completed:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The request's head is over the limit of {MAX_HEAD_BYTES} bytes.")

    def _await_rest(self) -> None:
        if self._waits is None:
            self._began = self.loop.time()
            self._waits = self.loop.call_later(WHOLE_SECONDS, self._look)

    def _cancel_wait(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
        self._waits, self._received = None, 0

    def _look(self) -> None:
        """The time is up, unless bytes came that gave more of it, or it is we who are to do something."""
        asked = None if self._in_head else self.cycle  # whose body is missing
        running = self._running if self._running is not asked else None
        busy = self.flow.read_paused or (running is not None and not running.response_complete)
        left = self._began + WHOLE_SECONDS + self._received / SLOWEST - self.loop.time()
        if busy or left > 0:
            self._waits = self.loop.call_later(1.0 if busy else left, self._look)
        elif self._received and (asked is None or not asked.response_started):
            self._refuse(408, "The request did not come whole in time.")
        else:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._midway = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes, self._completed, self._midway = True, 0, True, False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        """Answer before, or instead of, the app; then hang up."""
        body = error_json(RequestError(message, code=_CODES[status]))
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_wait()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
