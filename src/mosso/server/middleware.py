"""Around every request: its id in and out, one log line, one count, and an answer to every fault."""

from __future__ import annotations

import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mosso.server.faults import as_mosso_error, error_response
from mosso.server.metrics import Metrics
from mosso.server.record import KEY, RequestRecord, current_id, request_id

logger = logging.getLogger("mosso.server")
_QUIET = (
    "/health",
    "/v1/health/live",
    "/v1/health/ready",
    "/metrics",
    "/v1/metrics",
)  # probes; logged at debug level


class RequestContext:
    """Plain ASGI: it adds no task and no queue between the app and the socket."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(
            id=request_id(Headers(scope=scope).get("x-request-id")),
            method=scope["method"],
            path=scope["path"],
        )
        scope[KEY] = record
        current_id.set(record.id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = record.id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # a fault of ours: the client gets a 500 of the usual shape
            fault = as_mosso_error(error)
            record.error = type(fault).__name__
            if not record.status:
                await error_response(fault, record.path)(scope, receive, send_with_id)
        finally:
            self._log(record)
            self._metrics.served(scope, record)

    def _log(self, record: RequestRecord) -> None:
        level = logging.DEBUG if record.path in _QUIET else logging.INFO
        if logger.isEnabledFor(level):
            fields = record.fields()
            text = " ".join(f"{name}={value!r}" for name, value in fields.items())
            logger.log(level, "request %s", text, extra={"mosso": fields})
