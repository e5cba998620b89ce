"""/v1/responses: make, read, list what it was made from, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json

from mosso.api.errors import detail_of
from mosso.api.responses import ResponseJob
from mosso.api.responses_schema import (
    DeletedResponse,
    ItemList,
    ResponseEvent,
    ResponseObject,
    ResponsesRequest,
)
from mosso.api.running import ThinkingEnded
from mosso.core.errors import MossoError, NotFoundError, RequestError
from mosso.server.callers import caller_of
from mosso.server.context import Context, answer, event_stream
from mosso.server.openapi import GENERATING, errors, reads, streams
from mosso.server.record import record_of
from mosso.server.sse import Framing


def framed(batch: Sequence[bytes]) -> bytes:
    """Events with their names, which stand first in each payload: {"type":"response.created",..."""
    start = len(b'{"type":"')
    named = ((payload[start : payload.index(b'"', start)], payload) for payload in batch)
    return b"".join([b"event: " + name + b"\ndata: " + payload + b"\n\n" for name, payload in named])


def _failure(fault: MossoError) -> bytes:
    return framed([to_json({"type": "error", **detail_of(fault).model_dump(exclude={"type"})})])


FRAMING = Framing(batch=framed, failure=_failure, end=b"")


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["responses"])
    service = context.api.responses

    async def translated(request: Request) -> ResponseJob:
        caller = caller_of(request)
        body = await context.translated(request, ResponsesRequest, lambda body, caller: body)
        earlier = await service.earlier(body, caller.scope)
        tools = await service.gather(body, earlier)
        if (
            not earlier
            and isinstance(body.input, str)
            and len(body.input) < context.settings.thread_body_bytes
        ):
            return service.prepare(body, earlier, caller, tools)
        return await asyncio.to_thread(service.prepare, body, earlier, caller, tools)

    async def in_the_background(request: Request, job: ResponseJob, hold: ExitStack) -> Response:
        """The work is held until the response has ended; a stream may be left without ending it."""
        started = hold.pop_all()
        try:
            run = await service.start(job, started.close)
        except BaseException:
            started.close()
            raise
        if not job.body.stream:
            return Response(to_json(run.answer.snapshot()), media_type="application/json")
        return await event_stream(request, lambda report: run.follow(-1), hold, FRAMING)

    @routes.post(
        "/v1/responses",
        operation_id="createResponse",
        openapi_extra=reads(ResponsesRequest),
        responses=streams(ResponseObject, ResponseEvent) | errors(*GENERATING),
    )
    async def create(request: Request) -> Response:
        """Answer text or items."""
        with ExitStack() as hold:
            hold.enter_context(context.work(request))
            job = await translated(request)
            record_of(request.scope).job = job.id
            if job.body.background:
                return await in_the_background(request, job, hold)
            if job.body.stream:
                return await event_stream(request, lambda report: service.stream(job, report), hold, FRAMING)
            return await answer(request, lambda report: service.complete(job, report))

    @routes.get(
        "/v1/responses/{response_id}",
        operation_id="getResponse",
        responses=streams(ResponseObject, ResponseEvent) | errors(400, 404, 500),
    )
    async def retrieve(
        request: Request,
        response_id: str,
        stream: bool = False,
        starting_after: Annotated[int | None, Query(ge=0)] = None,
    ) -> Response:
        """A stored response, or the stream of one in the background from an event on."""
        if stream:
            after = -1 if starting_after is None else starting_after
            batches = await service.follow(caller_of(request).scope, response_id, after)
            return await event_stream(request, lambda report: batches, ExitStack(), FRAMING)
        if starting_after is not None:
            raise RequestError("starting_after is only allowed when stream is true.", param="starting_after")
        return Response(
            await service.retrieve(caller_of(request).scope, response_id), media_type="application/json"
        )

    @routes.post(
        "/v1/responses/{response_id}/cancel",
        operation_id="cancelResponse",
        responses=errors(400, 404, 500) | {200: {"model": ResponseObject}},
    )
    async def cancel(request: Request, response_id: str) -> Response:
        """End a response in the background."""
        return Response(
            await service.cancel(caller_of(request).scope, response_id), media_type="application/json"
        )

    @routes.post(
        "/v1/responses/{response_id}/end_thinking",
        operation_id="endResponseThinking",
        responses=errors(404, 500),
    )
    async def end_thinking(request: Request, response_id: str) -> ThinkingEnded:
        """The thinking of a response that is being made ends now; it goes on to its answer or its call."""
        return await service.running.end_thinking(caller_of(request).scope, response_id)

    @routes.delete("/v1/responses/{response_id}", operation_id="deleteResponse", responses=errors(404, 500))
    async def delete(request: Request, response_id: str) -> DeletedResponse:
        """Forget a stored response."""
        await service.delete(caller_of(request).scope, response_id)
        return DeletedResponse(id=response_id)

    @routes.get(
        "/v1/responses/{response_id}/input_items",
        operation_id="listInputItems",
        responses=errors(400, 404, 500),
    )
    async def input_items(
        request: Request,
        response_id: str,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> ItemList:
        """What a stored response was made from, with what came before it."""
        items = await service.input_items(caller_of(request).scope, response_id)
        if order == "desc":
            items.reverse()
        if after is not None:
            places = [place for place, item in enumerate(items) if item["id"] == after]
            if not places:
                raise NotFoundError(f"There is no input item with the id {after[:80]!r}.", param="after")
            items = items[places[0] + 1 :]
        page = items[:limit]
        ends = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        return ItemList(data=page, first_id=ends[0], last_id=ends[1], has_more=len(items) > limit)

    return routes
