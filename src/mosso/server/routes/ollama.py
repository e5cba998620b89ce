"""Ollama's dialect under /api: chat, generate, and what its clients ask about models and the server.

There is one model, and it is loaded: what would fetch, make or remove one is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

import mosso
from mosso.api.caller import Caller
from mosso.api.ollama import OllamaJob
from mosso.api.ollama_models import ModelCards
from mosso.api.ollama_schema import (
    OllamaChatAnswer,
    OllamaChatRequest,
    OllamaError,
    OllamaGenerateAnswer,
    OllamaGenerateRequest,
    OllamaLoadedModels,
    OllamaModels,
    OllamaPullRequest,
    OllamaRequest,
    OllamaShown,
    OllamaShowRequest,
    OllamaStatus,
    OllamaVersion,
)
from mosso.core.errors import MossoError, UnsupportedError
from mosso.server.context import Context, answer, event_stream
from mosso.server.openapi import GENERATING, errors, lines, reads
from mosso.server.record import record_of
from mosso.server.sse import Framing

B = TypeVar("B", bound=OllamaRequest)
DIALECT = "0.14.3"
"""The Ollama whose API this is; agents look for Responses (0.13.4), Messages (0.14) and the like."""
NDJSON = "application/x-ndjson"
_REFUSED = {
    "embed": "gpt-oss makes no embeddings.",
    "embeddings": "gpt-oss makes no embeddings.",
    "create": "this server has one model.",
    "copy": "give the model another name with --alias.",
    "delete": "this server has one model.",
    "push": "this server sends nothing anywhere.",
}


def joined(batch: Sequence[bytes]) -> bytes:
    return b"".join([payload + b"\n" for payload in batch])


def _failure(fault: MossoError) -> bytes:
    return joined([to_json(OllamaError(error=fault.message))])


FRAMING = Framing(batch=joined, failure=_failure, end=b"", media_type=NDJSON.encode())


def router(context: Context) -> APIRouter:
    routes = APIRouter(prefix="/api", tags=["ollama"])
    service, cards = context.api.ollama, ModelCards(context.settings.api, context.source)

    async def answered(
        request: Request, kind: type[B], prepare: Callable[[B, Caller], OllamaJob]
    ) -> Response:
        with ExitStack() as hold:
            hold.enter_context(context.work(request))
            job = await context.translated(request, kind, prepare)
            if job.work is None:
                return Response(service.loaded(job), media_type="application/json")
            record_of(request.scope).job = job.work.id
            if job.stream:
                return await event_stream(request, lambda report: service.stream(job, report), hold, FRAMING)
            return await answer(request, lambda report: service.complete(job, report))

    @routes.post(
        "/chat",
        operation_id="ollamaChat",
        openapi_extra=reads(OllamaChatRequest),
        responses=lines(OllamaChatAnswer, OllamaChatAnswer, OllamaError) | errors(*GENERATING),
    )
    async def chat(request: Request) -> Response:
        """Answer a conversation, in Ollama's dialect."""
        return await answered(request, OllamaChatRequest, service.prepare_chat)

    @routes.post(
        "/generate",
        operation_id="ollamaGenerate",
        openapi_extra=reads(OllamaGenerateRequest),
        responses=lines(OllamaGenerateAnswer, OllamaGenerateAnswer, OllamaError) | errors(*GENERATING),
    )
    async def generate(request: Request) -> Response:
        """Answer a prompt, in Ollama's dialect."""
        return await answered(request, OllamaGenerateRequest, service.prepare_generate)

    @routes.get("/tags", operation_id="ollamaTags")
    async def tags() -> OllamaModels:
        """The served model, and the other names it answers to."""
        return cards.listed()

    @routes.get("/ps", operation_id="ollamaPs")
    async def loaded() -> OllamaLoadedModels:
        """The loaded model, which is the served one."""
        return cards.loaded()

    @routes.post(
        "/show",
        operation_id="ollamaShow",
        openapi_extra=reads(OllamaShowRequest),
        responses={200: {"model": OllamaShown}, **errors(400, 404, 413)},
    )
    async def show(request: Request) -> Response:
        """What is known of the served model."""
        shown = await context.translated(
            request, OllamaShowRequest, lambda body, caller: cards.shown(body.asked)
        )
        return Response(to_json(shown), media_type="application/json")

    @routes.post(
        "/pull",
        operation_id="ollamaPull",
        openapi_extra=reads(OllamaPullRequest),
        responses=lines(OllamaStatus, OllamaStatus) | errors(400, 404, 413),
    )
    async def pull(request: Request) -> Response:
        """The served model is here already; another is not fetched."""
        body = await context.translated(request, OllamaPullRequest, lambda body, caller: body)
        cards.check(body.asked)
        done = to_json(OllamaStatus(status="success"))
        if not body.stream:
            return Response(done, media_type="application/json")
        first = to_json(OllamaStatus(status="pulling manifest"))
        return Response(joined([first, done]), media_type=NDJSON)

    @routes.get("/version", operation_id="ollamaVersion")
    async def version() -> OllamaVersion:
        """The version of Ollama whose API this is, and the version of mosso."""
        return OllamaVersion(version=DIALECT, mosso=mosso.__version__)

    def refuses(path: str, reason: str) -> Callable[[], Awaitable[Response]]:
        async def refused() -> Response:
            raise UnsupportedError(f"{path} is not supported: {reason}")

        return refused

    for name, reason in _REFUSED.items():
        method = "DELETE" if name == "delete" else "POST"
        routes.add_api_route(
            f"/{name}", refuses(f"/api/{name}", reason), methods=[method], include_in_schema=False
        )
    return routes
