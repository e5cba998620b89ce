"""/tokenize and /detokenize."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mosso.api.text import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse
from mosso.server.context import Context
from mosso.server.openapi import errors, reads


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["text"])

    @routes.post(
        "/tokenize",
        operation_id="tokenize",
        response_model=TokenizeResponse,
        openapi_extra=reads(TokenizeRequest),
        responses=errors(400, 404, 413, 503),
    )
    async def tokenize(request: Request) -> Response:
        """Token ids of a prompt, or of messages as a chat completion renders them."""
        made = await context.translated(request, TokenizeRequest, context.api.text.tokenize)
        return Response(made.model_dump_json(exclude_none=True), media_type="application/json")

    @routes.post(
        "/detokenize",
        operation_id="detokenize",
        response_model=DetokenizeResponse,
        openapi_extra=reads(DetokenizeRequest),
        responses=errors(400, 404, 413, 503),
    )
    async def detokenize(request: Request) -> Response:
        """Text of token ids."""
        made = await context.translated(
            request, DetokenizeRequest, lambda body, caller: context.api.text.detokenize(body)
        )
        return Response(made.model_dump_json(exclude_none=True), media_type="application/json")

    return routes
