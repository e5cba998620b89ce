"""/v1/messages and /v1/messages/count_tokens: Anthropic's dialect."""

from __future__ import annotations

from contextlib import ExitStack

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from mosso.api.errors import status_of
from mosso.api.messages import anthropic_error
from mosso.api.messages_schema import (
    CountTokensRequest,
    MessageObject,
    MessagesEvent,
    MessagesRequest,
    TokenCount,
)
from mosso.api.running import ThinkingEnded
from mosso.core.errors import MossoError
from mosso.server.callers import caller_of
from mosso.server.context import Context, answer, event_stream
from mosso.server.openapi import GENERATING, errors, reads, streams
from mosso.server.record import record_of
from mosso.server.routes.responses import framed
from mosso.server.sse import Framing


def _failure(fault: MossoError) -> bytes:
    return framed([anthropic_error(status_of(fault), fault.message)])


FRAMING = Framing(batch=framed, failure=_failure, end=b"")


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["messages"])
    service = context.api.messages

    @routes.post(
        "/v1/messages",
        operation_id="createMessage",
        openapi_extra=reads(MessagesRequest),
        responses=streams(MessageObject, MessagesEvent) | errors(*GENERATING),
    )
    async def create(request: Request) -> Response:
        """Answer a conversation, in Anthropic's dialect."""
        with ExitStack() as hold:
            hold.enter_context(context.work(request))
            job = await context.translated(request, MessagesRequest, service.prepare)
            record_of(request.scope).job = job.chat.id
            if job.stream:
                return await event_stream(request, lambda report: service.stream(job, report), hold, FRAMING)
            return await answer(request, lambda report: service.complete(job, report))

    @routes.post(
        "/v1/messages/count_tokens",
        operation_id="countMessageTokens",
        openapi_extra=reads(CountTokensRequest),
        responses=errors(*GENERATING) | {200: {"model": TokenCount}},
    )
    async def count_tokens(request: Request) -> Response:
        """How many tokens the prompt takes."""
        counted = await context.translated(request, CountTokensRequest, service.count)
        return Response(to_json(counted), media_type="application/json")

    @routes.post(
        "/v1/messages/{message_id}/end_thinking",
        operation_id="endMessageThinking",
        responses=errors(404, 500),
    )
    async def end_thinking(request: Request, message_id: str) -> ThinkingEnded:
        """The thinking of a message that is being made ends now; it goes on to its answer or its call."""
        return await service.end_thinking(caller_of(request).scope, message_id)

    return routes
