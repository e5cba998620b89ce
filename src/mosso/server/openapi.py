"""How routes that read their own body describe themselves in the OpenAPI document, and what holds for all.

What is true of every route is said here, once, when the document is made: a wrong parameter is a 400 (the
framework would say 422), and an error has the shape of the dialect that is spoken at its path.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import mosso
from mosso.api.errors import ErrorResponse
from mosso.server.dialects import ERROR_MODELS, error_model

_REF = "#/components/schemas/{model}"
_MEANING = {
    400: "The request is wrong; `param` names the part that is.",
    401: "No API key, or one that does not open this server.",
    404: "The model or object does not exist.",
    413: "The body is too large.",
    429: "No room now; see Retry-After.",
    500: "The engine failed.",
    503: "Starting, draining, or the engine is gone.",
}
GENERATING = (400, 404, 413, 429, 500, 503)
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""The two ways in which a request may show its key."""
_UNUSED = ("HTTPValidationError", "ValidationError")  # the framework's own 422


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declared error answers."""
    return {status: {"model": ErrorResponse, "description": _MEANING[status]} for status in statuses}


def reads(kind: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is a `kind`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(kind)}}}}


def streams(
    whole: type[BaseModel], chunk: type[BaseModel], *failures: type[BaseModel], end: str | None = None
) -> dict[int | str, dict[str, Any]]:
    """The 200 of a route that answers whole or as server-sent events: chunks, or a failure midway.

    `end` is the last event's data where that is not JSON.
    """
    payloads = {"anyOf": [_ref(kind) for kind in (chunk, *failures)]}
    data: dict[str, Any] = {"contentMediaType": "application/json", "contentSchema": payloads}
    if end is not None:
        data = {"anyOf": [{"const": end}, data]}
    event = {
        "type": "object",
        "required": ["data"],
        "properties": {"event": {"type": "string"}, "data": {"type": "string", **data}},
    }
    content = {"text/event-stream": {"itemSchema": event}}
    return {200: {"model": whole, "description": "The answer.", "content": content}}


def lines(whole: type[BaseModel], *each: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The 200 of a route that answers whole or as one JSON object a line."""
    content = {"application/x-ndjson": {"itemSchema": {"anyOf": [_ref(kind) for kind in each]}}}
    return {200: {"model": whole, "description": "The answer.", "content": content}}


def install(app: FastAPI, *kinds: type[BaseModel], open_paths: Container[str] | None = None) -> None:
    """Serve a document that also holds the schemas of `kinds`, which no route signature mentions.

    `open_paths` are those that need no key; None: nobody needs one.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title="mosso",
                version=mosso.__version__,
                summary="gpt-oss behind OpenAI's API",
                routes=app.routes,
            )
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            _, more = models_json_schema(
                [(kind, "validation") for kind in (*kinds, *ERROR_MODELS)], ref_template=_REF
            )
            schemas.update(more["$defs"])
            for path, operation in _operations(made):
                if open_paths is not None and path not in open_paths:
                    operation["security"] = [{name: []} for name in _KEYS]
                    operation["responses"]["401"] = _error(path, 401)
                _own_errors(path, operation["responses"])
            if open_paths is not None:
                made["components"]["securitySchemes"] = _KEYS
            for name in _UNUSED:
                schemas.pop(name, None)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _ref(kind: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REF.format(model=kind.__name__)}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for operation in item.values():
            yield path, operation


def _error(path: str, status: int) -> dict[str, Any]:
    schema = {"schema": _ref(error_model(path))}
    return {"description": _MEANING[status], "content": {"application/json": schema}}


def _own_errors(path: str, responses: dict[str, Any]) -> None:
    if responses.pop("422", None) is not None:
        responses.setdefault("400", _error(path, 400))
    for answer in responses.values():
        content = answer.get("content", {}).get("application/json", {})
        if content.get("schema") == _ref(ErrorResponse):
            content["schema"] = _ref(error_model(path))
