"""/v1/chat/completions and /v1/completions."""

from __future__ import annotations

from contextlib import ExitStack

from fastapi import APIRouter, Request, Response

from mosso.api.chat_schema import ChatCompletion, ChatCompletionChunk, ChatRequest
from mosso.api.completion_schema import Completion, CompletionRequest
from mosso.api.errors import ErrorResponse
from mosso.api.running import ThinkingEnded
from mosso.server.callers import caller_of
from mosso.server.context import Context, answer, event_stream
from mosso.server.openapi import GENERATING, errors, reads, streams
from mosso.server.record import record_of


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["generation"])

    @routes.post(
        "/v1/chat/completions",
        operation_id="createChatCompletion",
        openapi_extra=reads(ChatRequest),
        responses=streams(ChatCompletion, ChatCompletionChunk, ErrorResponse, end="[DONE]")
        | errors(*GENERATING),
    )
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        with ExitStack() as hold:
            hold.enter_context(context.work(request))
            job = await context.translated(request, ChatRequest, context.api.chat.prepare)
            record_of(request.scope).job = job.id
            if job.stream:
                return await event_stream(request, lambda report: context.api.chat.stream(job, report), hold)
            return await answer(request, lambda report: context.api.chat.complete(job, report))

    @routes.post(
        "/v1/chat/completions/{completion_id}/end_thinking",
        operation_id="endChatCompletionThinking",
        responses=errors(404, 500),
    )
    async def end_thinking(request: Request, completion_id: str) -> ThinkingEnded:
        """The thinking of an answer that is being made ends now; it goes on to its content or its calls."""
        return await context.api.chat.running.end_thinking(caller_of(request).scope, completion_id)

    @routes.post(
        "/v1/completions",
        operation_id="createCompletion",
        openapi_extra=reads(CompletionRequest),
        responses=streams(Completion, Completion, ErrorResponse, end="[DONE]") | errors(*GENERATING),
    )
    async def completions(request: Request) -> Response:
        """Continue raw text or token ids."""
        with ExitStack() as hold:
            hold.enter_context(context.work(request))
            job = await context.translated(request, CompletionRequest, context.api.completions.prepare)
            record_of(request.scope).job = job.id
            if job.stream:
                return await event_stream(
                    request, lambda report: context.api.completions.stream(job, report), hold
                )
            return await answer(request, lambda report: context.api.completions.complete(job, report))

    return routes
