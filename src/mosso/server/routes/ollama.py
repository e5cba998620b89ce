"""Ollama's dialect under /api: chat, and what its clients ask about the server. Errors: {"error": text}."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

import mosso
from mosso.api.ollama_schema import OllamaChatRequest
from mosso.core.errors import MossoError
from mosso.server.context import Context, answer, event_stream
from mosso.server.openapi import GENERATING, errors, reads
from mosso.server.record import record_of
from mosso.server.sse import Framing


def lines(batch: Sequence[bytes]) -> bytes:
    return b"".join([payload + b"\n" for payload in batch])


def _failure(fault: MossoError) -> bytes:
    return lines([to_json({"error": fault.message})])


FRAMING = Framing(batch=lines, failure=_failure, end=b"", media_type=b"application/x-ndjson")


def router(context: Context) -> APIRouter:
    routes = APIRouter(prefix="/api", tags=["ollama"])
    service, api = context.api.ollama, context.settings.api
    started = datetime.fromtimestamp(api.now(), UTC).isoformat().replace("+00:00", "Z")

    def card(name: str) -> dict[str, Any]:
        details = {"format": "safetensors", "family": "gptoss", "families": ["gptoss"],
                   "quantization_level": "MXFP4"}  # fmt: skip
        return {"name": name, "model": name, "modified_at": started, "details": details}

    @routes.post("/chat", operation_id="ollamaChat", openapi_extra=reads(OllamaChatRequest),
                 responses=errors(*GENERATING))  # fmt: skip
    async def chat(request: Request) -> Response:
        """Answer a conversation, in Ollama's dialect."""
        with ExitStack() as hold:
            hold.enter_context(context.lifecycle.work())
            job = await context.translated(request, OllamaChatRequest, service.prepare)
            record_of(request.scope).job = job.chat.id
            if job.stream:
                return await event_stream(request, lambda report: service.stream(job, report), hold, FRAMING)
            return await answer(request, lambda report: service.complete(job, report))

    @routes.get("/tags", operation_id="ollamaTags")
    async def tags() -> dict[str, list[dict[str, Any]]]:
        """The served model, and the other names it answers to."""
        return {"models": [card(name) for name in api.model_names]}

    @routes.get("/ps", operation_id="ollamaPs")
    async def loaded() -> dict[str, list[dict[str, Any]]]:
        """The loaded model, which is the served one."""
        return {"models": [card(api.model)]}

    @routes.get("/version", operation_id="ollamaVersion")
    async def version() -> dict[str, str]:
        """The version of mosso."""
        return {"version": mosso.__version__}

    return routes
