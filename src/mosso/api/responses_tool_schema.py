"""Built-in tools on the wire of /v1/responses: how a request names them, and the items of their calls."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from mosso.api.wire import Off, Sparse, WireModel

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Text = Annotated[str, Field(max_length=1 << 20)]
CallStatus = Literal["in_progress", "completed", "incomplete", "calling", "failed"]
ItemId = Annotated[str, Field(min_length=1, max_length=256)]


class ToolFilter(WireModel):
    """Tools by name, and by whether the server says that they only read. Both must hold."""

    tool_names: list[str] | None = Field(None, max_length=512)
    read_only: bool | None = None


class ApprovalFilter(WireModel):
    always: ToolFilter | None = None
    never: ToolFilter | None = None


class McpServerTool(WireModel):
    """The tools of an MCP server: of the operator's one of that label, or of the one at `server_url`."""

    type: Literal["mcp"]
    server_label: Label
    server_url: str | None = Field(None, max_length=4096)
    server_description: str | None = Field(None, max_length=4096)
    headers: dict[str, str] | None = Field(None, max_length=64, repr=False)
    authorization: str | None = Field(None, max_length=16384, repr=False)
    allowed_tools: list[str] | ToolFilter | None = None
    require_approval: Literal["always", "never"] | ApprovalFilter | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: Off | None = None
    connector_id: None = None  # OpenAI's own services
    tunnel_id: None = None


class McpChoice(WireModel):
    """The turn ends in a call of this server's, of the tool `name` if it is given."""

    type: Literal["mcp"]
    server_label: Label
    name: str | None = None


class CodeContainer(WireModel):
    """Each call has a container of its own, which is empty."""

    type: Literal["auto"]
    memory_limit: Literal["1g"] | None = None
    file_ids: list[str] | None = Field(None, max_length=0)
    network_policy: dict[Literal["type"], Literal["disabled"]] | None = None


class CodeInterpreterTool(WireModel):
    """The model's own python."""

    type: Literal["code_interpreter"]
    container: CodeContainer | None = None
    allowed_callers: list[Literal["direct"]] | None = None


class CodeChoice(WireModel):
    """The turn ends in a call of python."""

    type: Literal["code_interpreter"]


class CodeLogs(WireModel):
    type: Literal["logs"]
    logs: Text


class CodeCallItem(Sparse):
    """Code that the model has run, and what it printed."""

    type: Literal["code_interpreter_call"]
    code: Text | None = None
    container_id: str | None = None
    outputs: list[CodeLogs] | None = Field(None, max_length=64)
    id: ItemId | None = None
    status: Literal["in_progress", "completed", "incomplete", "interpreting", "failed"] | None = None


class SearchFilters(BaseModel):
    allowed_domains: list[Annotated[str, Field(pattern=r"^[a-zA-Z0-9.-]{1,253}$")]] | None = Field(
        None, max_length=100
    )


class WebSearchTool(BaseModel):
    """The model's own browser. Where it is switched off the tool is left out, whatever it says: agents list
    it unasked. `search_context_size` says how many results a search gives. Other fields are hints to OpenAI's
    own search, and without effect."""

    type: Literal[
        "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"
    ]
    filters: SearchFilters | None = None
    search_context_size: Literal["low", "medium", "high"] | None = None


class SearchChoice(WireModel):
    """The turn ends in a call of the browser."""

    type: Literal["web_search_preview", "web_search", "web_search_preview_2025_03_11"]


class SearchResult(WireModel):
    text: Text


class SearchCallItem(Sparse):
    """What the model did in its browser; `results` is what it read."""

    type: Literal["web_search_call"]
    action: dict[str, Any]
    results: list[SearchResult] | None = Field(None, max_length=64)
    id: ItemId | None = None
    status: Literal["in_progress", "searching", "completed", "failed", "incomplete"] | None = None


class McpListedTool(WireModel):
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None


class McpListItem(Sparse):
    """What a server offered when it was asked; it is not asked again in the same conversation."""

    type: Literal["mcp_list_tools"]
    server_label: Label
    tools: list[McpListedTool] = Field(max_length=512)
    error: str | None = None
    id: ItemId | None = None


class McpCallItem(Sparse):
    """A call of a server's tool, and what it gave: `output` or `error`."""

    type: Literal["mcp_call"]
    server_label: Label
    name: str = Field(min_length=1, max_length=128)
    arguments: Text
    output: Text | None = None
    error: str | dict[str, Any] | None = None
    approval_request_id: ItemId | None = None
    id: ItemId | None = None
    status: CallStatus | None = None


class McpApprovalRequestItem(Sparse):
    """The model wants to make this call; the client is asked."""

    type: Literal["mcp_approval_request"]
    server_label: Label
    name: str = Field(min_length=1, max_length=128)
    arguments: Text
    id: ItemId


class McpApprovalResponseItem(Sparse):
    """The client's word on such a call."""

    type: Literal["mcp_approval_response"]
    approval_request_id: ItemId
    approve: bool
    reason: Text | None = None
    id: ItemId | None = None
