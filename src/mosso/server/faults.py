"""Errors as HTTP responses, all of one shape."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from mosso.api.errors import ErrorDetail, ErrorResponse, error_json, status_of, type_of
from mosso.core.errors import (
    EngineError,
    MossoError,
    OverloadedError,
    QuotaError,
    RequestError,
    UnauthorizedError,
    UnavailableError,
)
from mosso.server.dialects import dialect_error
from mosso.server.record import record_of

CLIENT_GONE = 499  # nginx's number; nobody is left to read it, the log is
logger = logging.getLogger("mosso.server")


class ClientGone(Exception):  # noqa: N818 - an event, not a fault
    """The client hung up before its answer was complete."""


def install(app: FastAPI) -> None:
    app.add_exception_handler(MossoError, _mosso_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _wrong_parameter)
    app.add_exception_handler(ClientGone, _client_gone)
    app.add_exception_handler(ClientDisconnect, _client_gone)


def as_mosso_error(error: Exception) -> MossoError:
    """Errors outside the tree are faults of ours: logged with their traceback, shown without it."""
    if isinstance(error, MossoError):
        return error
    logger.error("unexpected error", exc_info=error)
    return EngineError("The server failed while it worked on the request.")


def error_response(error: MossoError, path: str) -> Response:
    """In the shape of the dialect that is spoken at `path`."""
    status, headers = status_of(error), _headers(error)
    body = dialect_error(path, status, error.message) or error_json(error)
    return Response(body, status, headers, media_type="application/json")


def _headers(error: MossoError) -> dict[str, str]:
    match error:
        case OverloadedError():
            return {"retry-after": str(max(1, math.ceil(error.retry_after)))}
        case QuotaError():
            return {"x-should-retry": "false"}  # OpenAI's and Anthropic's clients heed it
        case UnavailableError():
            return {"retry-after": "1"}
        case UnauthorizedError():
            return {"www-authenticate": "Bearer"}
    return {}


async def _mosso_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MossoError)
    record_of(request.scope).error = type(error).__name__
    return error_response(error, request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: unknown paths, wrong methods."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    headers = {}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(_methods(request))
    message = f"{phrase}: {request.method} {request.url.path}"
    body = dialect_error(request.url.path, error.status_code, message)
    if body is not None:
        return Response(body, error.status_code, headers, media_type="application/json")
    detail = ErrorDetail(
        message=message, type=type_of(error.status_code), code=phrase.lower().replace(" ", "_")
    )
    return Response(
        ErrorResponse(error=detail).model_dump_json(),
        error.status_code,
        headers,
        media_type="application/json",
    )


def _methods(request: Request) -> list[str]:
    """What may be asked of this path: the framework's own answer knows one route, a path may have several."""

    def known(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in ("DELETE", "GET", "PATCH", "POST", "PUT") if known(method)]


async def _wrong_parameter(request: Request, error: Exception) -> Response:
    """A parameter of the path or of the query that is not what the route declares."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param, message = str(first["loc"][-1]), first["msg"]
    fault = RequestError(
        f"Invalid value for '{param}': {message[:1].lower()}{message[1:]}.", param=param, code="invalid_value"
    )
    return await _mosso_error(request, fault)


async def _client_gone(request: Request, error: Exception) -> Response:
    record_of(request.scope).gone = True
    return Response(status_code=CLIENT_GONE)
