"""The server about itself: /, /version, /metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

import mosso
from mosso.core.errors import MossoError
from mosso.server.context import Context

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>mosso</title>
<h1>mosso</h1><p>gpt-oss behind OpenAI's API, at <code>/v1</code>:
<a href="/v1/models">models</a>, <a href="/openapi.json">OpenAPI document</a>,
<a href="/v1/health/ready">health</a>, <a href="/metrics">metrics</a>.</p></html>
"""


class VersionResponse(BaseModel):
    version: str


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["service"])

    @routes.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def home() -> str:
        return _PAGE

    @routes.get("/version", operation_id="version")
    async def version() -> VersionResponse:
        """The version of mosso."""
        return VersionResponse(version=mosso.__version__)

    @routes.get("/metrics", operation_id="metrics", response_class=PlainTextResponse)
    @routes.get("/v1/metrics", operation_id="nimMetrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus metrics."""
        try:
            stats = await context.stats()
        except (TimeoutError, MossoError):
            stats = None
        return Response(context.metrics.text(stats), media_type=CONTENT_TYPE_LATEST)

    return routes
