"""The wire schema of Anthropic's POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from mosso.api.sampling import StopText
from mosso.api.wire import MAX_MESSAGES, Off, WireModel, WireRequest


class Block(WireModel):
    cache_control: dict[str, Any] | None = None  # no effect: every prefix is cached here


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: list[Any] | None = Field(None, max_length=0)


class ThinkingBlock(WireModel):
    """The model's thinking, sent back. The signature is not checked: whoever may ask may also invent."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(WireModel):
    """Thinking of another server, sealed: nobody here can read it, so it is left out."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: str = Field(min_length=1, max_length=256)
    name: str = Field(min_length=1, max_length=256)
    input: dict[str, Any]
    caller: dict[str, Any] | None = None  # what clients send back of an answer; says who called


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool = False


class UserTurn(WireModel):
    role: Literal["user"]
    content: str | list[Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]]


AssistantBlock = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock


class AssistantTurn(WireModel):
    role: Literal["assistant"]
    content: str | list[Annotated[AssistantBlock, Field(discriminator="type")]]


class MessagesTool(Block):
    type: Literal["custom"] | None = None
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    input_examples: list[dict[str, Any]] | None = None  # shown with the description
    defer_loading: Off | None = None
    allowed_callers: list[Literal["direct"]] | None = None  # only the model itself calls here
    eager_input_streaming: bool | None = None  # no effect: arguments are always sent as they come


class ToolUse(WireModel):
    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(WireModel):
    """`disabled`: the model does not think; where nothing is said it does, and the client does not see it.
    The budget is held, and stands for an effort too where none is given."""

    type: Literal["enabled", "adaptive", "disabled"]
    display: Literal["summarized", "omitted"] | None = None  # omitted: not shown; nothing here sums it up
    budget_tokens: int | None = Field(None, ge=1)


class OutputFormat(WireModel):
    """The answer is held to the schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(WireModel):
    """`xhigh` and `max` are the most that gpt-oss has: high."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class ClearThinking(WireModel):
    """An edit that happens here anyway: gpt-oss sees its thinking only until its next answer is whole."""

    type: Literal["clear_thinking_20251015"]
    keep: Any = None


class ContextManagement(WireModel):
    edits: list[ClearThinking] = Field(default_factory=list)


class CountTokensRequest(WireRequest):
    """The body of POST /v1/messages/count_tokens."""

    refused: ClassVar[Mapping[str, str]] = {
        "container": "there is no code execution.",
        "mcp_servers": "tools are called by the client here.",
    }

    model: str
    messages: list[Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]] = Field(
        min_length=1, max_length=MAX_MESSAGES
    )
    system: str | list[TextBlock] | None = None
    tools: list[MessagesTool] | None = Field(None, max_length=512)
    tool_choice: ToolUse | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    context_management: ContextManagement | None = None
    cache_control: dict[str, Any] | None = None  # no effect: every prefix is cached here


class MessagesRequest(CountTokensRequest):
    """The body of POST /v1/messages."""

    max_tokens: int = Field(ge=1)
    stream: bool = False
    stop_sequences: list[StopText] | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    # Accepted and without effect here: they serve Anthropic's own abuse checks and tiers.
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


class TokenCount(BaseModel):
    input_tokens: int


class MessagesUsage(BaseModel):
    """`input_tokens` are those not read from the prefix cache."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int


class MessageObject(BaseModel):
    """The answer, whole."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: MessagesUsage


class MessagesEvent(BaseModel):
    """One event of a streamed answer; `type` says which, and with it what else it holds."""

    type: str


class MessagesErrorDetail(BaseModel):
    type: str
    message: str


class MessagesError(BaseModel):
    type: Literal["error"] = "error"
    error: MessagesErrorDetail
