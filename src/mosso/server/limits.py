"""Reading a request body that may be too large, counted as it comes."""

from __future__ import annotations

from starlette.requests import Request

from mosso.core.errors import RequestError, TooLargeError


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes; TooLargeError as soon as it is known to be more.

    Never holds more than the limit and one network read. What a client sends after the refusal is thrown
    away by the HTTP layer, so that the client lives to read the answer.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    if not size:
        raise RequestError("The request body is empty.", code="invalid_json")
    return b"".join(pieces)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The request body is over the limit of {limit} bytes.", code="request_too_large")
