"""The server about itself: /, /version, /metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

import mosso
from mosso.core.errors import MossoError
from mosso.server import playground
from mosso.server.context import Context


class VersionResponse(BaseModel):
    version: str


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["service"])

    @routes.get("/", include_in_schema=False)
    async def home() -> Response:
        return playground.page()

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
