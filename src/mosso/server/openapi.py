"""How routes that read their own body describe themselves in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import mosso
from mosso.api.errors import ErrorResponse

_REF = "#/components/schemas/{model}"
_MEANING = {
    400: "The request is wrong; `param` names the part that is.",
    404: "The model or object does not exist.",
    413: "The body is too large.",
    429: "No room now; see Retry-After.",
    500: "The engine failed.",
    503: "Starting, draining, or the engine is gone.",
}
GENERATING = (400, 404, 413, 429, 500, 503)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declared error answers."""
    return {status: {"model": ErrorResponse, "description": _MEANING[status]} for status in statuses}


def reads(kind: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is a `kind`."""
    schema = {"$ref": _REF.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def streams(whole: type[BaseModel], chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The 200 of a route that answers whole or as server-sent events."""
    event = {"schema": {"$ref": _REF.format(model=chunk.__name__)}}
    return {200: {"model": whole, "description": "The answer.", "content": {"text/event-stream": event}}}


def install(app: FastAPI, *kinds: type[BaseModel]) -> None:
    """Serve a document that also holds the schemas of `kinds`, which no route signature mentions."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title="mosso",
                version=mosso.__version__,
                summary="gpt-oss behind OpenAI's API",
                routes=app.routes,
            )
            _, more = models_json_schema([(kind, "validation") for kind in kinds], ref_template=_REF)
            made.setdefault("components", {}).setdefault("schemas", {}).update(more["$defs"])
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
