"""/v1/models."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from mosso.api.wire import check_model
from mosso.core.errors import UnavailableError
from mosso.server.context import Context
from mosso.server.openapi import errors


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mosso"
    root: str
    max_model_len: int | None = None  # unknown until the engine is ready


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["models"])
    api = context.settings.api
    created = api.now()

    def card(name: str) -> ModelCard:
        try:
            length = context.source.limits.max_context
        except UnavailableError:
            length = None
        return ModelCard(id=name, created=created, root=api.model, max_model_len=length)

    @routes.get("/v1/models", operation_id="listModels")
    async def models() -> ModelList:
        """The served model, and the other names it answers to."""
        return ModelList(data=[card(name) for name in api.model_names])

    @routes.get("/v1/models/{model:path}", operation_id="retrieveModel", responses=errors(404))
    async def model(model: str) -> ModelCard:
        """One of them."""
        check_model(model, api.model_names)
        return card(model)

    return routes
