"""Built-in tools as the Responses API tells of them: the item and the events of a call, and who runs it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from mosso.core.json import JsonObject
from mosso.tools.tool import Outcome, Session, ToolServer

GONE = -32601  # JSON-RPC's "method not found"
Item = dict[str, Any]  # an output item as it is told


@dataclass(frozen=True, slots=True)
class Shape:
    """The events of a call, without `response.`; `text` names those of its text, which `field` holds."""

    prefix: str  # of the item's id
    begun: str | None = None
    text: str | None = None
    field: str = ""
    running: str | None = None
    completed: str | None = None
    failed: str | None = None


class Hosted(ABC):
    """A tool that this server runs, as one response offers it."""

    shape: ClassVar[Shape]
    runs: ClassVar[bool] = (
        True  # false: a call ends the response, for the client to say whether it may be run
    )

    @abstractmethod
    def item(self, recipient: str) -> Item:
        """A call that begins, without its id and status."""

    @abstractmethod
    def fill(self, item: Item, recipient: str, text: str) -> None:
        """The call's text is whole."""

    @abstractmethod
    async def run(self, recipient: str, text: str) -> Outcome:
        """Never raises."""

    @abstractmethod
    def finish(self, item: Item, outcome: Outcome) -> None:
        """The call has been run; its status is set by the caller."""


@dataclass(slots=True)
class HostedCall:
    """A call that the model has made and nobody has run yet. `item` is in the output at `index` already."""

    tool: Hosted
    item: Item
    index: int
    recipient: str
    channel: str | None
    text: str

    def place(self) -> dict[str, Any]:
        return {"item_id": self.item["id"], "output_index": self.index}


@dataclass(slots=True)
class McpTool(Hosted):
    """A tool of an MCP server. The model sees it as one more function."""

    server: ToolServer
    label: str
    name: str

    shape: ClassVar[Shape] = Shape(
        "mcp",
        begun="mcp_call.in_progress",
        text="mcp_call_arguments",
        field="arguments",
        completed="mcp_call.completed",
        failed="mcp_call.failed",
    )

    def item(self, recipient: str) -> Item:
        named = {"server_label": self.label, "name": self.name, "arguments": "", "approval_request_id": None}
        return {"type": "mcp_call", **named, "output": None, "error": None}

    def fill(self, item: Item, recipient: str, text: str) -> None:
        item["arguments"] = text

    async def run(self, recipient: str, text: str) -> Outcome:
        return await self.server.call(self.name, text)

    def finish(self, item: Item, outcome: Outcome) -> None:
        if not outcome.failed:
            item["output"] = outcome.text
        elif outcome.code is not None:
            item["error"] = {"type": "mcp_protocol_error", "code": outcome.code, "message": outcome.text}
        else:
            content = [{"type": "text", "text": outcome.text}]
            item["error"] = {"type": "mcp_tool_execution_error", "content": content}


@dataclass(slots=True)
class McpApproval(McpTool):
    """A tool of an MCP server that may be run only after the client has said so."""

    shape: ClassVar[Shape] = Shape("mcpr", field="arguments")
    runs: ClassVar[bool] = False

    def item(self, recipient: str) -> Item:
        named = {"server_label": self.label, "name": self.name, "arguments": ""}
        return {"type": "mcp_approval_request", **named}


@dataclass(slots=True)
class CodeTool(Hosted):
    """The model's own python, which it calls while it thinks."""

    session: Session
    container: str  # an id; nothing is kept in it

    shape: ClassVar[Shape] = Shape(
        "ci",
        begun="code_interpreter_call.in_progress",
        text="code_interpreter_call_code",
        field="code",
        running="code_interpreter_call.interpreting",
        completed="code_interpreter_call.completed",
    )

    def item(self, recipient: str) -> Item:
        return {"type": "code_interpreter_call", "code": "", "container_id": self.container, "outputs": None}

    def fill(self, item: Item, recipient: str, text: str) -> None:
        item["code"] = text

    async def run(self, recipient: str, text: str) -> Outcome:
        return await self.session.run(recipient, text)

    def finish(self, item: Item, outcome: Outcome) -> None:
        item["outputs"] = [{"type": "logs", "logs": outcome.text}]


@dataclass(slots=True)
class SearchTool(Hosted):
    """The model's own browser."""

    session: Session
    count: int | None = None  # results of a search; None: as many as the model asks for

    shape: ClassVar[Shape] = Shape(
        "ws",
        begun="web_search_call.in_progress",
        running="web_search_call.searching",
        completed="web_search_call.completed",
    )

    def item(self, recipient: str) -> Item:
        return {"type": "web_search_call", "action": _action(recipient, {}), "results": None}

    def fill(self, item: Item, recipient: str, text: str) -> None:
        item["action"] = _action(recipient, read_arguments(text))

    async def run(self, recipient: str, text: str) -> Outcome:
        if self.count is not None and recipient.endswith("search"):
            text = json.dumps(read_arguments(text) | {"topn": self.count})
        return await self.session.run(recipient, text)

    def finish(self, item: Item, outcome: Outcome) -> None:
        item["results"] = [{"text": outcome.text}]
        action = item["action"]
        if action["type"] == "search":
            action["sources"] = [{"type": "url", "url": url} for url in outcome.sources]
        elif outcome.url is not None:
            action["url"] = outcome.url


def _action(recipient: str, given: dict[str, Any]) -> dict[str, Any]:
    """The specification's word for a call of the browser's."""
    match recipient.rpartition(".")[2]:
        case "open":
            target = given.get("id")
            return {"type": "open_page", "url": target if isinstance(target, str) else ""}
        case "find":
            return {"type": "find_in_page", "pattern": str(given.get("pattern", "")), "url": ""}
        case _:
            query = str(given.get("query", ""))
            return {"type": "search", "query": query, "queries": [query]}


def browser_call(action: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The call that an action was: its recipient and arguments."""
    match action.get("type"):
        case "open_page":
            return "browser.open", {"id": str(action.get("url") or "")}
        case "find_in_page":
            return "browser.find", {"pattern": str(action.get("pattern") or "")}
        case _:
            return "browser.search", {"query": str(action.get("query") or "")}


def read_arguments(text: str) -> dict[str, Any]:
    """Arguments as the model wrote them; empty where they are none."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


class Gone(McpTool):
    """A tool that was there when its call was made, and is no longer offered."""

    def __init__(self, label: str, name: str) -> None:
        self.label = label
        self.name = name

    async def run(self, recipient: str, text: str) -> Outcome:
        return Outcome(
            f"The tool {self.name} of {self.label} is not offered any more.", failed=True, code=GONE
        )


def error_text(error: Any) -> str:
    """What the model was told of a call's error, as an item keeps it."""
    if isinstance(error, dict):
        if "message" in error:
            return str(error["message"])
        content = error.get("content")
        if isinstance(content, list):
            return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(error)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a response found out about a server's tools, as its `mcp_list_tools` item tells it."""

    label: str
    tools: tuple[JsonObject, ...] = ()
    error: str | None = None

    def item(self, item_id: str) -> Item:
        return {
            "id": item_id,
            "type": "mcp_list_tools",
            "server_label": self.label,
            "tools": [dict(tool) for tool in self.tools],
            "error": self.error,
        }
