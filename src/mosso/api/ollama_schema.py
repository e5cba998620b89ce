"""The wire schema of Ollama's /api/chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from mosso.api.chat_schema import Tool
from mosso.api.sampling import StopText
from mosso.api.wire import WireModel, WireRequest


class OllamaFunction(WireModel):
    name: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Any]
    index: int | None = None
    description: str | None = None


class OllamaCall(WireModel):
    id: str | None = None
    function: OllamaFunction


class OllamaMessage(WireModel):
    """A tool's result names its function (`tool_name`) or follows the order of the calls."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: list[Any] | None = Field(None, max_length=0)  # gpt-oss reads text only


class OllamaOptions(WireModel):
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    num_predict: int | None = Field(None, ge=-2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repeat_penalty: float | None = Field(None, gt=0, le=10)
    stop: StopText | list[StopText] | None = None
    num_ctx: int | None = Field(None, ge=1)  # no effect: the context is the server's


class OllamaChatRequest(WireRequest):
    """The body of POST /api/chat."""

    refused: ClassVar[Mapping[str, str]] = {"logprobs": "ask /v1/chat/completions for them."}

    model: str
    messages: list[OllamaMessage] = Field(min_length=1)
    tools: list[Tool] | None = Field(None, max_length=512)
    stream: bool = True
    think: bool | Literal["low", "medium", "high"] | None = None
    format: Literal["json", ""] | dict[str, Any] | None = None
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None  # no effect: the model stays loaded


class OllamaError(BaseModel):
    """What went wrong, as this dialect says it: also the last line of a stream that fails midway."""

    error: str
