"""Server-sent events, and noticing that the client went away.

A client that hangs up must free its KV blocks at once, whether it streams or waits for a whole answer. Both
paths therefore watch the connection beside the work, and cancel the work when the connection ends. A client
that stays but reads nothing counts as gone after SEND_SECONDS: what it does not read piles up in memory.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mosso.api.errors import error_json
from mosso.core.errors import MossoError, UnavailableError
from mosso.server.faults import ClientGone, as_mosso_error
from mosso.server.record import record_of

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
_LINE_ENDS = re.compile(rb"\xe2\x80[\xa8\xa9]|\xc2\x85")  # U+2028, U+2029, U+0085
SEND_SECONDS = 60.0  # that one write may wait for the client to read
_HEADERS = (
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # reverse proxies must not hold events back
)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up; then ClientGone.

    The request's body must have been read: whatever `receive` gives now is the disconnect. A request's own
    task is cancelled only when the drain's time is up: that is UnavailableError, which the client still gets.
    """
    task = asyncio.create_task(work)
    hangup = asyncio.create_task(_hangup(receive))
    try:
        await asyncio.wait((task, hangup), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    except asyncio.CancelledError:
        raise UnavailableError("The server shut down before the answer was complete.") from None
    finally:
        await _cancel(task, hangup)


async def _hangup(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Framing:
    """How a dialect writes its stream: a batch of JSON payloads, a failure, and the end of a whole one."""

    batch: Callable[[Sequence[bytes]], bytes]
    failure: Callable[[MossoError], bytes]
    end: bytes
    media_type: bytes = b"text/event-stream; charset=utf-8"


def framed(batch: Sequence[bytes]) -> bytes:
    """JSON payloads as events, for one write to the socket."""
    return b"".join([b"data: " + payload + b"\n\n" for payload in batch])


CHAT = Framing(batch=framed, failure=lambda fault: framed([error_json(fault)]), end=DONE)


class EventStream(Response):
    """Sends batches of JSON payloads as they come, then the framing's end.

    The caller has already drawn the `first` batch, so a failure before it had its own HTTP status. A failure
    after it is sent as an error event, and the stream ends there. `batches` is closed whatever
    happens, and `on_close` is called after that.
    """

    def __init__(
        self,
        first: list[bytes],
        batches: AsyncGenerator[list[bytes]],
        on_close: Callable[[], None],
        framing: Framing = CHAT,
    ) -> None:
        super().__init__()
        self._framing = framing
        self._first = first
        self._batches = batches
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self._framing.media_type), *_HEADERS]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await while_connected(receive, self._pump(scope, send))
        except ClientGone:
            record_of(scope).gone = True
        except UnavailableError as fault:
            await self._fail(scope, send, fault)
        finally:
            await self._batches.aclose()
            self._on_close()

    async def _pump(self, scope: Scope, send: Send) -> None:
        try:
            await _write(send, self._framing.batch(self._first))
            async for batch in self._batches:
                await _write(send, self._framing.batch(batch))
        except ClientGone:
            raise
        except Exception as error:
            await self._fail(scope, send, as_mosso_error(error))
        else:
            await _write(send, self._framing.end, more=False)

    async def _fail(self, scope: Scope, send: Send, fault: MossoError) -> None:
        """The stream's last event, instead of its end."""
        record_of(scope).error = type(fault).__name__
        await _write(send, self._framing.failure(fault), more=False)


def one_line(payload: bytes) -> bytes:
    """JSON without the characters that end a line in Unicode, though neither in SSE nor in JSON: clients that
    read lines as text (httpx, and so the ollama package) would tear an event apart at them."""
    return _LINE_ENDS.sub(lambda found: b"\\u%04x" % ord(found.group().decode()), payload)


async def _write(send: Send, body: bytes, *, more: bool = True) -> None:
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await send({"type": "http.response.body", "body": one_line(body), "more_body": more})
    except TimeoutError:
        raise ClientGone from None
