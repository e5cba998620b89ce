"""/v1/models, for clients of OpenAI's dialect and of Anthropic's at once: each finds the fields it knows."""

from __future__ import annotations

from datetime import UTC, datetime
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
    type: Literal["model"] = "model"
    display_name: str
    created_at: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
    first_id: str
    last_id: str
    has_more: Literal[False] = False


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["models"])
    api = context.settings.api
    created = api.now()
    since = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")

    def card(name: str) -> ModelCard:
        try:
            length = context.source.limits.max_context
        except UnavailableError:
            length = None
        return ModelCard(
            id=name,
            created=created,
            root=api.model,
            max_model_len=length,
            display_name=name,
            created_at=since,
        )

    @routes.get("/v1/models", operation_id="listModels")
    async def models() -> ModelList:
        """The served model, and the other names it answers to."""
        names = api.model_names
        return ModelList(data=[card(name) for name in names], first_id=names[0], last_id=names[-1])

    @routes.get("/v1/models/{model:path}", operation_id="retrieveModel", responses=errors(404))
    async def model(model: str) -> ModelCard:
        """One of them."""
        check_model(model, api.model_names)
        return card(model)

    return routes
