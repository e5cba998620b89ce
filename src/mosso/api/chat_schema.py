"""The wire schema of /v1/chat/completions: the request, the answer and the stream's chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from mosso.api.sampling import MAX_TOP_LOGPROBS, SamplingFields
from mosso.api.thinking import EffortName, ReasoningFields, TemplateKwargs, same, thinking_budget
from mosso.api.tiers import ServedTier
from mosso.api.usage import Usage
from mosso.api.wire import MAX_MESSAGES, Off, WireModel

Metadata = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]
FinishReason = Literal["stop", "length", "tool_calls"]


class TextPart(WireModel):
    type: Literal["text"]
    text: str


class RefusalPart(WireModel):
    type: Literal["refusal"]
    refusal: str


class FunctionCall(WireModel):
    name: str = Field(min_length=1, max_length=256)
    arguments: str


class ToolCall(WireModel):
    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None  # clients that fold a stream send the delta's index back


class SystemMessage(WireModel):
    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = None


class UserMessage(WireModel):
    role: Literal["user"]
    content: str | list[TextPart]
    name: str | None = None


class AssistantMessage(WireModel):
    """An answer of the model, as this server (or another of the dialect) gave it."""

    role: Literal["assistant"]
    content: str | list[TextPart | RefusalPart] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: str | None = None
    name: str | None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None


class ToolMessage(WireModel):
    role: Literal["tool"]
    tool_call_id: str
    content: str | list[TextPart]
    name: str | None = None  # redundant: tool_call_id says which function it was


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class FunctionDefinition(WireModel):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(WireModel):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(WireModel):
    name: str


class NamedToolChoice(WireModel):
    type: Literal["function"]
    function: FunctionName


class JsonSchemaFormat(WireModel):
    """`strict` or not, the answer is constrained to the schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(WireModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(WireModel):
    """vLLM's extension: the answer's form by other means than a JSON schema too. One of the fields."""

    json_: dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = Field(None, min_length=1)
    choice: list[Annotated[str, Field(min_length=1)]] | None = Field(None, min_length=1)
    grammar: str | None = Field(None, min_length=1)  # Lark, or EBNF as llama.cpp writes it (GBNF)


class ChatRequest(SamplingFields):
    """The body of POST /v1/chat/completions."""

    refused: ClassVar[Mapping[str, str]] = {
        "functions": "it is the old form of tools.",
        "function_call": "it is the old form of tool_choice.",
        "audio": "gpt-oss speaks text only.",
        "prediction": "there is no speculation from predicted outputs.",
        "web_search_options": "there is no built-in web search.",
        "verbosity": "gpt-oss has no such control; say it in the system message.",
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: list[Tool] | None = Field(None, max_length=512)
    tool_choice: Literal["auto", "none", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: EffortName | None = None
    # Tokens of thinking, by the names of Qwen, of vLLM and (reasoning.max_tokens) of OpenRouter.
    thinking_budget: int | None = Field(None, ge=0)
    thinking_token_budget: int | None = Field(None, ge=0)
    reasoning: ReasoningFields | None = None
    chat_template_kwargs: TemplateKwargs = Field(default_factory=TemplateKwargs)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    modalities: list[Literal["text"]] | None = Field(None, min_length=1)
    store: Off | None = None
    # Accepted and without effect here, as documented: they serve OpenAI's own dashboards, abuse checks and
    # cache routing.
    metadata: Metadata | None = Field(None, max_length=16)
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def effort(self) -> str | None:
        asked = self.reasoning.effort if self.reasoning is not None else None
        return same(
            {
                "reasoning_effort": self.reasoning_effort,
                "reasoning.effort": asked,
                "chat_template_kwargs.reasoning_effort": self.chat_template_kwargs.reasoning_effort,
            }
        )

    @property
    def budget(self) -> int | None:
        """Tokens of thinking; None: as many as the model likes."""
        reasoning = self.reasoning or ReasoningFields()
        given = {
            "thinking_budget": self.thinking_budget,
            "thinking_token_budget": self.thinking_token_budget,
            "reasoning.max_tokens": reasoning.max_tokens,
        }
        return thinking_budget(given, effort=self.effort, enabled=reasoning.enabled is not False)


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobEntry(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[TokenLogprobEntry]
    refusal: None = None


class ResponseFunction(BaseModel):
    name: str
    arguments: str


class ResponseToolCall(BaseModel):
    id: str
    type: Literal["function"]
    function: ResponseFunction


class ResponseMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ResponseToolCall] | None = None


class ChatChoice(BaseModel):
    index: int
    message: ResponseMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """The answer, whole."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: ServedTier = "default"
    system_fingerprint: str


class DeltaFunction(BaseModel):
    name: str | None = None
    arguments: str | None = None


class DeltaToolCall(BaseModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: DeltaFunction


class ChoiceDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[DeltaToolCall] | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: ChoiceDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(BaseModel):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    service_tier: ServedTier = "default"
    system_fingerprint: str
