"""Errors as a client of the OpenAI dialect sees them: a status and one body shape.

{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}
"""

from __future__ import annotations

from http import HTTPStatus

from pydantic import BaseModel

from mosso.core.errors import (
    MossoError,
    NotFoundError,
    OverloadedError,
    QuotaError,
    RequestError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    error: ErrorDetail


# The first class that fits wins, so subclasses stand before their bases.
_STATUS: tuple[tuple[type[MossoError], HTTPStatus], ...] = (
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnauthorizedError, HTTPStatus.UNAUTHORIZED),
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (RequestError, HTTPStatus.BAD_REQUEST),
    (OverloadedError, HTTPStatus.TOO_MANY_REQUESTS),
    (QuotaError, HTTPStatus.TOO_MANY_REQUESTS),
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
)


def status_of(error: MossoError) -> int:
    """The HTTP status of an error; what is not the client's doing and not a matter of time is 500."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return int(status)
    return int(HTTPStatus.INTERNAL_SERVER_ERROR)


def type_of(status: int) -> str:
    """OpenAI's `type` for a status."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return "service_unavailable_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def detail_of(error: MossoError) -> ErrorDetail:
    param = error.param if isinstance(error, RequestError) else None
    code = error.code if isinstance(error, RequestError | QuotaError) else None
    if isinstance(error, OverloadedError):
        code = "rate_limit_exceeded"
    kind = "insufficient_quota" if code == "insufficient_quota" else type_of(status_of(error))
    return ErrorDetail(message=error.message, type=kind, param=param, code=code)


def error_json(error: MossoError) -> bytes:
    return ErrorResponse(error=detail_of(error)).model_dump_json().encode()
