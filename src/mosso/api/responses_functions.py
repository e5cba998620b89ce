"""The client's own tools in a Responses request: functions, free-text tools, and both in namespaces.

To the model they are all functions: a namespace's are shown as NAMESPACE__NAME, a free-text tool as one that
takes a string, and its call has the text itself for content. A call goes back as what the client knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from mosso.api.responses_schema import (
    CustomTool,
    FunctionTool,
    GrammarInput,
    NamespaceTool,
    ResponsesRequest,
)
from mosso.api.structure import Offer
from mosso.api.tool_calls import MAX_NAME, check_schema, shown_name
from mosso.core.constraints import Grammar, GrammarKind
from mosso.core.errors import RequestError
from mosso.harmony.conversation import FunctionTool as HarmonyFunction


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A tool that the client runs. `where` is its place in the request."""

    tool: FunctionTool | CustomTool
    namespace: str | None
    where: str

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def plain(self) -> str:
        """Its name as a function, before taken names get another."""
        return plain_name(self.name, self.namespace)

    @property
    def is_custom(self) -> bool:
        return isinstance(self.tool, CustomTool)

    def function(self) -> HarmonyFunction:
        """As the model is shown it."""
        about, shown = self.tool.description or "", shown_name(self.plain)
        if isinstance(self.tool, FunctionTool):
            return HarmonyFunction(shown, about, self.tool.parameters or None)
        form = self.tool.format
        if isinstance(form, GrammarInput):
            about += f"\nIts input follows this {form.syntax} grammar:\n{form.definition}"
        return HarmonyFunction(shown, about.lstrip("\n"), {"type": "string"})

    def offer(self) -> Offer:
        if isinstance(self.tool, FunctionTool):
            return Offer(self.plain, self.tool.parameters, bool(self.tool.strict), f"{self.where}.parameters")
        form = self.tool.format
        content = Grammar(GrammarKind.TEXT)
        if isinstance(form, GrammarInput):
            kind = GrammarKind.LARK if form.syntax == "lark" else GrammarKind.REGEX
            content = Grammar(kind, form.definition, f"{self.where}.format.definition")
        strict = content.kind is not GrammarKind.TEXT
        return Offer(self.plain, None, strict, f"{self.where}.format", content=content)


def plain_name(name: str, namespace: str | None) -> str:
    return name if namespace is None else f"{namespace}__{name}"[:MAX_NAME]


def client_tools(body: ResponsesRequest) -> list[ClientTool]:
    """All of them, checked: no two of one name, schemas that are some. RequestError names the wrong one."""
    tools = list(_flat(body))
    seen: set[str] = set()
    for tool in tools:
        if tool.plain in seen:
            raise RequestError(f"There are two tools named {tool.plain!r}.", param=f"{tool.where}.name")
        seen.add(tool.plain)
        if isinstance(tool.tool, FunctionTool) and tool.tool.parameters:
            check_schema(tool.tool.parameters, f"{tool.where}.parameters")
    return tools


def _flat(body: ResponsesRequest) -> Iterator[ClientTool]:
    for position, tool in enumerate(body.tools):
        where = f"tools[{position}]"
        if isinstance(tool, NamespaceTool):
            for place, inner in enumerate(tool.tools):
                yield ClientTool(inner, tool.name, f"{where}.tools[{place}]")
        elif isinstance(tool, FunctionTool | CustomTool):
            yield ClientTool(tool, None, where)


def free_text(content: str) -> str:
    """A free-text call's input. A model that writes {"input": "…"} all the same means what is inside."""
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        return content
    wrapped = isinstance(given, dict) and list(given) == ["input"] and isinstance(given["input"], str)
    return str(given["input"]) if wrapped else content
