"""The built-in tools of one response: found from what the request names, shown to the model, called, closed.

Tools of MCP servers are shown as functions beside the client's own: that is the form of tool that gpt-oss
knows best, and one constraint covers them all.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mosso.api.responses_functions import client_tools
from mosso.api.responses_hosted import CodeTool, Hosted, Listing, McpApproval, McpTool, SearchTool
from mosso.api.responses_schema import ResponsesRequest
from mosso.api.responses_tool_schema import (
    CodeInterpreterTool,
    McpServerTool,
    ToolFilter,
    WebSearchTool,
)
from mosso.api.structure import Offer
from mosso.api.tool_calls import FUNCTIONS, MAX_NAME, check_schema, shown_name
from mosso.core.constraints import Grammar, GrammarKind
from mosso.core.errors import RequestError, UnsupportedError
from mosso.core.json import JsonObject
from mosso.harmony.conversation import FunctionTool as HarmonyFunction
from mosso.harmony.conversation import ToolNamespace
from mosso.tools.browser import Browser, BrowserSession
from mosso.tools.mcp import McpServer, Servers
from mosso.tools.tool import Builtin, RemoteTool, Session, ToolServer, ToolServerError

RESULTS = {"low": 5, "medium": 10, "high": 20}  # of a search, by the size of context that a client wants
ANY_TEXT = Grammar(GrammarKind.TEXT)
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, slots=True)
class Tools:
    """What the operator lets requests use; nothing by default."""

    servers: Servers | None = None
    python: Builtin | None = None
    browser: Browser | None = None


@dataclass(slots=True)
class Toolset:
    """One response's built-in tools. Whoever makes the response closes it.

    `functions` stand in the developer message after the client's own, `namespaces` in the system message;
    `listings` are what the response has to tell of servers first.
    """

    functions: list[HarmonyFunction] = field(default_factory=list)
    namespaces: list[ToolNamespace] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    browser: BrowserSession | None = None
    notes: list[str] = field(default_factory=list)  # of whole servers, for the head of the functions
    _hosted: dict[str, Hosted] = field(default_factory=dict)  # by recipient
    _shown: dict[tuple[str, str], str] = field(default_factory=dict)  # (label, tool) → the name shown
    _owned: list[ToolServer | Session] = field(default_factory=list)

    def find(self, recipient: str) -> Hosted | None:
        """The tool behind a recipient, which the model may have written without its namespace, or a tool of
        its own under that of the functions."""
        bare = recipient.removeprefix(f"{FUNCTIONS}.")
        known = (recipient, f"{FUNCTIONS}.{recipient}", bare, bare.partition(".")[0])
        return next((self._hosted[name] for name in known if name in self._hosted), None)

    def mcp_recipient(self, label: str, name: str) -> str:
        """The Harmony name of a server's tool, also of one that is no longer offered."""
        return f"{FUNCTIONS}.{self._shown.get((label, name)) or _legal(name)}"

    def mcp_tool(self, label: str, name: str) -> McpTool | None:
        """The tool itself, whether it needs approval or not."""
        tool = self._hosted.get(self.mcp_recipient(label, name)) if (label, name) in self._shown else None
        return McpTool(tool.server, label, name) if isinstance(tool, McpTool) else None

    async def close(self) -> None:
        await asyncio.gather(*(owned.close() for owned in self._owned), return_exceptions=True)

    def add_python(self, builtin: Builtin) -> None:
        """The model's own python."""
        session = builtin.open()
        self.own(session)
        name = builtin.namespace.name
        self.namespaces.append(builtin.namespace)
        self._hosted[name] = CodeTool(session, f"cntr_{uuid.uuid4().hex}")
        self.offers.append(Offer(name, None, strict=False, param="tools", builtin=name, content=ANY_TEXT))

    def add_server(
        self, wire: McpServerTool, server: ToolServer, tools: Iterable[RemoteTool], taken: set[str]
    ) -> None:
        """The allowed tools of a server; `taken` are the names that functions have, and gets these."""
        if wire.server_description:
            self.notes.append(f"{wire.server_label}: {wire.server_description}")
        for tool in tools:
            if not _passes(wire.allowed_tools, tool) or not _is_sound(tool):
                continue
            name = _free_name(wire.server_label, tool.name, taken)
            taken.add(name)
            self._shown[wire.server_label, tool.name] = name
            kind = McpApproval if needs_approval(wire, tool) else McpTool
            self._hosted[f"{FUNCTIONS}.{name}"] = kind(server, wire.server_label, tool.name)
            schema = tool.schema or None
            self.functions.append(HarmonyFunction(name, tool.description, schema))
            self.offers.append(Offer(name, schema, strict=False, param="tools", server=wire.server_label))

    def add_browser(self, wire: WebSearchTool, browser: Browser) -> None:
        """The model's own browser: one for the response, so that pages stay open between its calls."""
        domains = wire.filters.allowed_domains if wire.filters is not None else None
        self.browser = session = browser.open()
        session.domains = tuple(domain.lower() for domain in domains or ())
        self.own(session)
        self.namespaces.append(browser.namespace)
        tool = SearchTool(session, RESULTS.get(wire.search_context_size or ""))
        for function in browser.namespace.tools:
            name = f"{browser.namespace.name}.{function.name}"
            self._hosted[name] = tool
            self.offers.append(Offer(name, function.parameters, strict=False, param="tools", builtin=name))

    def annotations(self, text: str) -> list[dict[str, Any]]:
        """What of a final answer's text cites a page that the browser has shown."""
        cited = self.browser.citations(text) if self.browser is not None else []
        return [
            {
                "type": "url_citation",
                "start_index": citation.start,
                "end_index": citation.end,
                "url": citation.url,
                "title": citation.title,
            }
            for citation in cited
        ]

    def own(self, opened: ToolServer | Session) -> None:
        self._owned.append(opened)


def _legal(name: str) -> str:
    return _ILLEGAL.sub("_", name)[:MAX_NAME]


def _free_name(label: str, name: str, taken: set[str]) -> str:
    """The tool's own name where it is free, else with its server's; never one of the model's own tools'."""
    own = _legal(name)
    if own == shown_name(own) and own not in taken:
        return own
    longer = _legal(f"{label}__{name}")
    candidates = (longer, *(f"{longer[: MAX_NAME - 4]}_{number}" for number in range(2, 1000)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _is_sound(tool: RemoteTool) -> bool:
    """Whether its schema is one; what a server says is not the client's mistake, so the tool is left out."""
    try:
        if tool.schema:
            check_schema(tool.schema, "tools")
    except RequestError:
        return False
    return True


def _passes(allowed: list[str] | ToolFilter | None, tool: RemoteTool) -> bool:
    if allowed is None:
        return True
    if isinstance(allowed, list):
        return tool.name in allowed
    named = allowed.tool_names is None or tool.name in allowed.tool_names
    return named and (allowed.read_only is None or allowed.read_only == tool.read_only)


def needs_approval(wire: McpServerTool, tool: RemoteTool) -> bool:
    """`always` is the specification's default; of two filters that hold, the cautious one counts."""
    wanted = wire.require_approval
    if wanted is None or isinstance(wanted, str):
        return wanted != "never"
    if wanted.always is not None and _passes(wanted.always, tool):
        return True
    return wanted.never is None or not _passes(wanted.never, tool)


async def gather(
    body: ResponsesRequest, tools: Tools, known: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Toolset:
    """Finds what the request names; RequestError for what is not here.

    `known` are lists of tools that the conversation holds already: those servers are not asked again. A
    server that cannot be asked gives a listing that says so, and the response goes on without it.
    """
    toolset = Toolset()
    for position, tool in enumerate(body.tools):
        if isinstance(tool, CodeInterpreterTool):
            _add_python(toolset, body, tools, f"tools[{position}]")
        elif isinstance(tool, WebSearchTool) and tools.browser is not None and body.tool_choice != "none":
            if toolset.browser is not None:
                where = f"tools[{position}]"
                raise RequestError(f"{where}: there is one web_search already.", param=where)
            toolset.add_browser(tool, tools.browser)
    wanted = list(_servers(body, tools))
    try:
        asked = [_list(wire, server, known.get(wire.server_label)) for wire, server, owned in wanted]
        answers = await asyncio.gather(*asked)
    finally:
        await asyncio.gather(*(server.close() for _, server, owned in wanted if owned))
    taken = {shown_name(tool.plain) for tool in client_tools(body)}
    for (wire, server, owned), (listed, error) in zip(wanted, answers, strict=True):
        if owned:  # connected again on its first call; until then there is nothing to close
            toolset.own(server)
        if error is not None or wire.server_label not in known:
            passing = [tool for tool in listed if _passes(wire.allowed_tools, tool)]
            toolset.listings.append(Listing(wire.server_label, tuple(map(_listed, passing)), error))
        if body.tool_choice != "none":
            toolset.add_server(wire, server, listed, taken)
    return toolset


def _add_python(toolset: Toolset, body: ResponsesRequest, tools: Tools, where: str) -> None:
    if tools.python is None:
        raise UnsupportedError(
            f"{where}: code_interpreter is switched off on this server; see mosso serve --python-tool.",
            param=where,
        )
    if toolset.find(tools.python.namespace.name) is not None:
        raise RequestError(f"{where}: there is one code_interpreter already.", param=where)
    if body.tool_choice != "none":
        toolset.add_python(tools.python)


def _servers(body: ResponsesRequest, tools: Tools) -> Iterator[tuple[McpServerTool, McpServer, bool]]:
    """(what is asked for, the server, whether it is this response's own)."""
    seen: set[str] = set()
    for position, wire in enumerate(body.tools):
        if not isinstance(wire, McpServerTool):
            continue
        where = f"tools[{position}]"
        if wire.server_label in seen:
            raise RequestError(
                f"{where}.server_label: there are two MCP servers labelled {wire.server_label!r}.",
                param=f"{where}.server_label",
            )
        seen.add(wire.server_label)
        yield _server(wire, tools.servers, where)


def _server(
    wire: McpServerTool, servers: Servers | None, where: str
) -> tuple[McpServerTool, McpServer, bool]:
    if servers is None:
        raise UnsupportedError(
            f"{where}: this server offers no MCP servers; see mosso serve --mcp-config.", param=where
        )
    if wire.server_url is None:
        server = servers.named.get(wire.server_label)
        if server is None:
            there = ", ".join(sorted(servers.named)) or "none"
            raise RequestError(
                f"{where}.server_label: no MCP server here is called {wire.server_label!r}; known: {there}.",
                param=f"{where}.server_label",
            )
        if wire.headers or wire.authorization:
            raise RequestError(
                f"{where}.headers: the server {wire.server_label!r} is the operator's and has its settings.",
                param=f"{where}.headers",
            )
        return wire, server, False
    if not servers.allows(wire.server_url):
        raise UnsupportedError(
            f"{where}.server_url: this server does not connect to MCP servers at this URL; "
            "see mosso serve --mcp-allow-url.",
            param=f"{where}.server_url",
        )
    headers = dict(wire.headers or {})
    if wire.authorization:
        headers["Authorization"] = f"Bearer {wire.authorization}"
    return wire, servers.at(wire.server_label, wire.server_url, headers), True


async def _list(
    wire: McpServerTool, server: McpServer, known: Sequence[Mapping[str, Any]] | None
) -> tuple[tuple[RemoteTool, ...], str | None]:
    if known is not None:
        return tuple(map(_remote, known)), None
    try:
        return await server.tools(), None
    except ToolServerError as error:
        return (), str(error)


def _listed(tool: RemoteTool) -> JsonObject:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.schema,
        "annotations": tool.annotations,
    }


def _remote(listed: Mapping[str, Any]) -> RemoteTool:
    schema, notes = listed.get("input_schema"), listed.get("annotations")
    return RemoteTool(
        str(listed["name"]),
        str(listed.get("description") or ""),
        schema if isinstance(schema, dict) else {},
        notes if isinstance(notes, dict) else None,
    )
