"""Liveness and readiness, from the engine's own heartbeat: a probe never costs a generation.

The engine tells a long step from one that hangs (`EngineStats.seconds_stalled`). An engine that died is being
started again: the server lives, and is not ready.

live    the process answers and the engine is not stuck; a restart would help where this fails
ready   live, the engine is loaded, and the server is not draining
/health the engine is loaded and moves; also true while draining
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from mosso.core.errors import MossoError
from mosso.server.context import Context

Status = Literal["live", "ready", "not_live", "not_ready"]


class HealthResponse(BaseModel):
    """The body that NIM's probes have."""

    object: Literal["health.response"] = "health.response"
    message: str
    status: Status


@dataclass(frozen=True, slots=True)
class EngineState:
    loaded: bool
    stuck: bool
    message: str


async def engine_state(context: Context) -> EngineState:
    """Loaded: it has told its limits. Stuck: it was loaded, and work waits or it does not answer."""
    try:
        _ = context.source.limits
    except MossoError as error:
        return EngineState(loaded=False, stuck=False, message=error.message)
    try:
        stats = await context.stats()
    except TimeoutError:
        return EngineState(loaded=True, stuck=True, message="The engine does not answer.")
    except MossoError as error:
        return EngineState(loaded=True, stuck=True, message=error.message)
    if stats.seconds_stalled > context.settings.stuck_seconds:
        still = f"{stats.seconds_stalled:.0f} s"
        return EngineState(
            loaded=True, stuck=True, message=f"Work waits, but the engine has not moved for {still}."
        )
    return EngineState(loaded=True, stuck=False, message="The engine is running.")


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["health"])
    bad: dict[int | str, dict[str, Any]] = {503: {"model": HealthResponse, "description": "Not healthy."}}

    @routes.get("/health", operation_id="health", response_model=HealthResponse, responses=bad)
    async def health() -> JSONResponse:
        """Whether the engine is loaded and moves."""
        state = await engine_state(context)
        good = state.loaded and not state.stuck
        return _response(good, "ready" if good else "not_ready", state.message)

    @routes.get("/v1/health/live", operation_id="live", response_model=HealthResponse, responses=bad)
    async def live() -> JSONResponse:
        """Whether a restart is not needed."""
        state = await engine_state(context)
        if state.stuck:
            return _response(False, "not_live", state.message)
        return _response(True, "live", "Service is live.")

    @routes.get("/v1/health/ready", operation_id="ready", response_model=HealthResponse, responses=bad)
    async def ready() -> JSONResponse:
        """Whether requests should be sent here."""
        if context.lifecycle.draining:
            return _response(False, "not_ready", "Service is shutting down.")
        state = await engine_state(context)
        if not state.loaded or state.stuck:
            return _response(False, "not_ready", state.message)
        return _response(True, "ready", "Service is ready.")

    return routes


def _response(good: bool, status: Status, message: str) -> JSONResponse:
    return JSONResponse(HealthResponse(message=message, status=status).model_dump(), 200 if good else 503)
