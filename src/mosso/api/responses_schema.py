"""The wire schema of /v1/responses: the request, its items, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, TypeAdapter

from mosso.api.chat_schema import Metadata, StructuredOutputs
from mosso.api.responses_tool_schema import (
    CodeCallItem,
    CodeChoice,
    CodeInterpreterTool,
    ItemId,
    McpApprovalRequestItem,
    McpApprovalResponseItem,
    McpCallItem,
    McpChoice,
    McpListItem,
    McpServerTool,
    SearchCallItem,
    SearchChoice,
    WebSearchTool,
)
from mosso.api.sampling import MAX_TOP_LOGPROBS, SamplingFields
from mosso.api.thinking import EffortName, TemplateKwargs, same, thinking_budget
from mosso.api.tiers import ServedTier, ServiceTier
from mosso.api.wire import Off, SchemaOf, Sparse, WireModel, WireRequest

Status = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",  # this and what follows is always given
    "web_search_call.results",
    "web_search_call.action.sources",
]


class InputText(WireModel):
    type: Literal["input_text"]
    text: str


class OutputText(WireModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None  # what clients send back of an answer; nothing reads it
    logprobs: list[Any] | None = None
    parsed: Any = None  # the SDK's own addition


class Refusal(WireModel):
    type: Literal["refusal"]
    refusal: str


ContentPart = Annotated[InputText | OutputText | Refusal, Field(discriminator="type")]


class MessageItem(Sparse):
    """What a person, a developer or the model said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ContentPart]
    id: ItemId | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCallItem(Sparse):
    """The model called a function."""

    type: Literal["function_call"]
    call_id: ItemId
    name: str = Field(min_length=1)
    arguments: str
    id: ItemId | None = None
    status: Status | None = None
    namespace: str | None = None
    caller: None = None
    async_: None = Field(None, alias="async")
    parsed_arguments: Any = None  # the SDK's own addition


class FunctionCallOutputItem(Sparse):
    """What the function gave."""

    type: Literal["function_call_output"]
    call_id: ItemId
    output: str | list[InputText]
    id: ItemId | None = None
    status: Status | None = None
    name: str | None = None  # the call's own; what the call id says counts
    namespace: str | None = None


class CustomToolCallItem(Sparse):
    """The model called a free-text tool."""

    type: Literal["custom_tool_call"]
    call_id: ItemId
    name: str = Field(min_length=1)
    input: str
    id: ItemId | None = None
    status: Status | None = None
    namespace: str | None = None
    caller: None = None
    async_: None = Field(None, alias="async")


class CustomToolCallOutputItem(Sparse):
    """What the free-text tool gave."""

    type: Literal["custom_tool_call_output"]
    call_id: ItemId
    output: str | list[InputText]
    id: ItemId | None = None
    status: Status | None = None
    name: str | None = None
    namespace: str | None = None


class SummaryText(WireModel):
    type: Literal["summary_text"]
    text: str


class ReasoningText(WireModel):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Sparse):
    """The model's thinking. Sealed content, where there is some, wins over what stands beside it."""

    type: Literal["reasoning"]
    summary: list[SummaryText] = Field(default_factory=list)
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    id: ItemId | None = None
    status: Status | None = None


Item = (
    MessageItem
    | FunctionCallItem
    | FunctionCallOutputItem
    | CustomToolCallItem
    | CustomToolCallOutputItem
    | ReasoningItem
    | McpListItem
    | McpCallItem
    | McpApprovalRequestItem
    | McpApprovalResponseItem
    | CodeCallItem
    | SearchCallItem
)
TypedItem = Annotated[Item, Field(discriminator="type")]
TYPED_ITEM: TypeAdapter[Any] = TypeAdapter(TypedItem)
STORED_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[TypedItem])
"""Items as the store keeps them: always with their type and their id."""


class FunctionTool(WireModel):
    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None  # every tool is shown at once: there is no tool search to find others
    allowed_callers: list[Literal["direct"]] | None = None
    output_schema: dict[str, Any] | None = None  # what the client will answer with; nothing here needs it


class FreeInput(WireModel):
    type: Literal["text"]


class GrammarInput(WireModel):
    type: Literal["grammar"]
    syntax: Literal["lark", "regex"]
    definition: str = Field(max_length=1 << 20)


CustomFormat = Annotated[FreeInput | GrammarInput, Field(discriminator="type")]


class CustomTool(WireModel):
    """A tool that takes free text, or text of a grammar."""

    type: Literal["custom"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    format: CustomFormat | None = None
    defer_loading: bool | None = None
    allowed_callers: list[Literal["direct"]] | None = None


class NamespaceTool(WireModel):
    """Tools under one name, as agents group those of their MCP servers."""

    type: Literal["namespace"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    tools: list[Annotated[FunctionTool | CustomTool, Field(discriminator="type")]] = Field(max_length=512)


class HostedTool(BaseModel):
    """A tool that OpenAI's own servers would run. Agents list them unasked, so they are taken and left out:
    the model does not see them, and the answer's `tools` does not name them."""

    type: Literal["image_generation", "tool_search"]


Tool = Annotated[
    FunctionTool
    | CustomTool
    | NamespaceTool
    | McpServerTool
    | CodeInterpreterTool
    | WebSearchTool
    | HostedTool,
    Field(discriminator="type"),
]


class ReasoningOptions(WireModel):
    """`summary` is taken and gives none: the thinking itself is given, and nothing here sums it up."""

    effort: EffortName | None = None
    max_tokens: int | None = Field(default=None, ge=0)  # of thinking; no field of OpenAI's
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class FreeFormat(WireModel):
    type: Literal["text", "json_object"]


class SchemaFormat(WireModel):
    """`strict` or not, the answer is constrained to the schema."""

    type: Literal["json_schema"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    schema_: dict[str, Any] = Field(alias="schema", serialization_alias="schema")
    description: str | None = None
    strict: bool | None = None


TextFormat = Annotated[FreeFormat | SchemaFormat, Field(discriminator="type")]


class FunctionChoice(WireModel):
    type: Literal["function"]
    name: str


class CustomChoice(WireModel):
    type: Literal["custom"]
    name: str


NamedChoice = Annotated[
    FunctionChoice | CustomChoice | McpChoice | CodeChoice | SearchChoice, Field(discriminator="type")
]


class TextOptions(WireModel):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None  # the default; gpt-oss has no such control


class ResponsesStreamOptions(WireModel):
    include_obfuscation: Off | None = None


class ResponsesRequest(WireRequest):
    """The body of POST /v1/responses."""

    refused: ClassVar[Mapping[str, str]] = {
        "conversation": "use previous_response_id.",
        "prompt": "there are no stored prompts here.",
        "context_management": "use truncation.",
        "moderation": "nothing here moderates.",
    }

    input: (
        str | list[Annotated[Any, SchemaOf(TYPED_ITEM)]]
    )  # the items are read by responses_items.read_items
    model: str | None = None
    instructions: str | None = None
    previous_response_id: ItemId | None = None
    store: bool = True
    background: bool = False
    stream: bool = False
    stream_options: ResponsesStreamOptions | None = None
    include: list[Includable] = Field(default_factory=list, max_length=16)
    max_output_tokens: int | None = Field(None, ge=1)
    max_tool_calls: int | None = Field(None, ge=1)  # of built-in tools
    parallel_tool_calls: bool = True
    tools: list[Tool] = Field(default_factory=list, max_length=512)
    tool_choice: Literal["auto", "none", "required"] | NamedChoice = "auto"
    text: TextOptions = Field(default_factory=TextOptions)
    structured_outputs: StructuredOutputs | None = None  # no field of OpenAI's
    reasoning: ReasoningOptions = Field(default_factory=ReasoningOptions)
    chat_template_kwargs: TemplateKwargs = Field(default_factory=TemplateKwargs)
    truncation: Literal["auto", "disabled"] = "disabled"
    metadata: Metadata = Field(default_factory=dict, max_length=16)
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    cache_salt: str = Field("", max_length=256)
    service_tier: ServiceTier | None = None
    # Accepted and without effect here, as documented: they serve OpenAI's own dashboards, abuse checks and
    # cache routing.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    client_metadata: dict[str, Any] | None = None
    return_token_ids: bool = False  # vLLM's; those of the last turn

    @property
    def effort(self) -> str | None:
        return same(
            {
                "reasoning.effort": self.reasoning.effort,
                "chat_template_kwargs.reasoning_effort": self.chat_template_kwargs.reasoning_effort,
            }
        )

    @property
    def budget(self) -> int | None:
        """Tokens of thinking; None: as many as the model likes."""
        return thinking_budget({"reasoning.max_tokens": self.reasoning.max_tokens}, effort=self.effort)

    @property
    def logprobs(self) -> int | None:
        """Alternatives a token; None: no log probabilities are wanted."""
        wanted = "message.output_text.logprobs" in self.include or self.top_logprobs
        return self.top_logprobs if wanted else None

    @property
    def sealed(self) -> bool:
        return "reasoning.encrypted_content" in self.include

    @property
    def sampling(self) -> SamplingFields:
        shared = {"temperature", "top_p", "top_k", "min_p", "seed", "priority", "cache_salt", "service_tier"}
        return SamplingFields.model_validate(self.model_dump(include=shared))


class InputTokensDetails(BaseModel):
    cached_tokens: int


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int


class ResponsesUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(BaseModel):
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"]


class ResponseObject(BaseModel):
    """The answer. Its items are documented by the public specification of the Responses API."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: ResponseStatus
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, str | None]
    service_tier: ServedTier = "default"
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponsesUsage | None = None
    user: str | None = None
    prompt_token_ids: list[int] | None = None  # these two with return_token_ids, once it has ended
    token_ids: list[int] | None = None


class ResponseEvent(BaseModel):
    """One event of a stream; what else it holds follows from its type."""

    type: str
    sequence_number: int


class ItemList(BaseModel):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
