"""/v1/batches: files of requests, answered when there is room."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from mosso.api.batches import BatchService
from mosso.api.batches_schema import Batch, BatchList, BatchRequest
from mosso.api.wire import parse_request
from mosso.server.callers import caller_of
from mosso.server.context import Context
from mosso.server.limits import read_body
from mosso.server.openapi import errors, reads


def router(context: Context, service: BatchService) -> APIRouter:
    routes = APIRouter(tags=["batches"])

    @routes.post(
        "/v1/batches",
        operation_id="createBatch",
        openapi_extra=reads(BatchRequest),
        responses=errors(400, 404, 413, 429, 500, 503),
    )
    async def create(request: Request) -> Batch:
        """Answer the requests of an uploaded file, behind all others."""
        with context.lifecycle.work():
            body = parse_request(BatchRequest, await read_body(request, context.settings.max_body_bytes))
            return await service.create(body, caller_of(request))

    @routes.get("/v1/batches", operation_id="listBatches", responses=errors(400, 404, 500))
    async def list_batches(
        request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> BatchList:
        """The batches there are, newest first."""
        return await service.page(caller_of(request).scope, after=after, limit=limit)

    @routes.get("/v1/batches/{batch_id}", operation_id="retrieveBatch", responses=errors(400, 404, 500))
    async def retrieve(request: Request, batch_id: str) -> Batch:
        """How far a batch is."""
        return await service.retrieve(caller_of(request).scope, batch_id)

    @routes.post("/v1/batches/{batch_id}/cancel", operation_id="cancelBatch", responses=errors(400, 404, 500))
    async def cancel(request: Request, batch_id: str) -> Batch:
        """End a batch; what was answered is kept."""
        return await service.cancel(caller_of(request).scope, batch_id)

    return routes
