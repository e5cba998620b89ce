"""Running the app on a socket, until a signal asks for the end.

First SIGTERM or SIGINT: /v1/health/ready turns 503 and new work is refused with 503, while the port stays
open for probes; streams in hand go on until they end or `drain_seconds` are over; then the process leaves
with status 0. A second signal leaves at once. Threads that still work on a request hold up neither.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI

from mosso.core.counting import counted
from mosso.core.errors import UsageError
from mosso.server.lifecycle import Lifecycle
from mosso.server.protocol import Connection
from mosso.server.tls import Certificate

T = TypeVar("T")
BACKLOG = 2048
LOOK_TICKS = 50  # of a tenth of a second, between two looks at the certificate
CUT_SECONDS = 1  # streams cut at the end of the drain get so long to tell it and to free what they hold
LEAVE_SECONDS = 3  # a process that has ended its work is gone after so long, whatever its threads do
KEEP_ALIVE_SECONDS = 75
"""An idle connection is closed after this; longer than clients keep theirs (httpx, and so the openai package:
5 s), or a request now and then would meet the closing connection and fail."""
logger = logging.getLogger("mosso.server")


class Server(uvicorn.Server):
    """uvicorn, with a drain before its shutdown."""

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        on_start: Callable[[], object] | None = None,
        certificate: Certificate | None = None,
        on_force: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(config)
        self._on_force = on_force
        self._certificate = certificate
        self._lifecycle = lifecycle
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_start is not None:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._lifecycle.draining:
            self.should_exit = self.force_exit = True
            if self._on_force is not None:
                self._on_force()
        else:
            self._lifecycle.drain()  # first: the next signal may interrupt this very handler
            logger.info("draining: %s in hand", counted(self._lifecycle.active, "request"))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What is still in hand is cut now, so that its clients are told before uvicorn closes on them."""
        if self._lifecycle.active:
            for task in self.server_state.tasks:
                task.cancel()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if self._certificate is not None and counter % LOOK_TICKS == 0:
            self._certificate.look()
        return await super().on_tick(counter) or self._lifecycle.may_exit()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. UsageError names the address that cannot be had."""
    with ExitStack() as owned:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            sock = owned.enter_context(socket.socket(family, kind))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError as error:
            hint = f"; choose another: --port {port + 1}" if error.errno == errno.EADDRINUSE else ""
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from None
        sock.setblocking(False)
        owned.pop_all()  # the caller's from here on
        return sock


def url_of(sock: socket.socket, *, tls: bool = False) -> str:
    """Where a browser on this machine finds the server."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "localhost"
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def serve_async(
    app: FastAPI,
    sock: socket.socket,
    on_start: Callable[[], object] | None = None,
    *,
    tls: Certificate | None = None,
    on_force: Callable[[], object] | None = None,
) -> None:
    """Serve on a socket made by `bind` until a signal; `on_start` is called once connections are accepted.

    on_force: called at the second signal.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CUT_SECONDS,
        ssl_context_factory=None if tls is None else lambda config, default: tls.context,
    )
    await Server(config, app.state.lifecycle, on_start, tls, on_force).serve(sockets=[sock])


def leave_soon(status: int, seconds: float = LEAVE_SECONDS) -> None:
    """End this process after `seconds`, if it has not ended by then: Python would wait for all threads."""
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()


def serve(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_start: Callable[[str], None] | None = None,
    tls: Certificate | None = None,
) -> None:
    """serve_async on an address and an event loop of its own; `on_start` is told the server's URL."""
    with bind(host, port) as sock:
        tell = partial(on_start, url_of(sock, tls=tls is not None)) if on_start is not None else None
        run(lambda: serve_async(app, sock, tell, tls=tls))


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on the fastest event loop there is."""
    if sys.platform == "win32":
        return asyncio.run(main())
    import uvloop

    return uvloop.run(main())
