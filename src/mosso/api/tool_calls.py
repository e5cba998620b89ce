"""Function tools on their way in and out: checked definitions become Harmony's `functions` namespace.

A function that is named like a tool that gpt-oss knows by itself (`python`, `browser`, …) gets another name
on its way to the model and its own back on the way out, in every dialect: the model would otherwise take it
for the tool it knows, and write code where the client waits for JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError

from mosso.api.chat_schema import ChatRequest, Tool
from mosso.core.errors import RequestError
from mosso.harmony.conversation import FunctionTool, ToolNamespace

FUNCTIONS = "functions"
MAX_NAME = 64  # of a function, as the model is shown it
MAX_SCHEMA_CHARS = 256 << 10
MAX_SCHEMA_DEPTH = 64
_OWN = "user_"  # a client's function with a taken name is shown with this before it
_TAKEN = frozenset({
    "python", "browser", "container", "functions",  # namespaces that the model was trained on
    "all", "assistant", "user", "system", "developer", "tool",  # recipients and roles
})  # fmt: skip


def offered_functions(body: ChatRequest) -> ToolNamespace | None:
    """The functions that the model may call in this request; None when there are none.

    With tool_choice none they are not shown to the model at all: what it does not see it does not call.
    """
    tools = body.tools or []
    functions = tuple(_function(tool, f"tools[{position}].function") for position, tool in enumerate(tools))
    seen: set[str] = set()
    for position, function in enumerate(functions):
        if function.name in seen:
            raise RequestError(
                f"There are two tools named {function_name(function.name)!r}.",
                param=f"tools[{position}].function.name",
            )
        seen.add(function.name)
    if not functions or body.tool_choice == "none":
        return None
    return ToolNamespace(FUNCTIONS, tools=functions)


def shown_name(function_name: str) -> str:
    """What the model knows a client's function by. No two functions get one name: what is shown with the
    prefix is never another function's own name, as that one would be shown with one more."""
    return _OWN + function_name if _bare(function_name) in _TAKEN else function_name


def recipient(function_name: str) -> str:
    """The Harmony name of a client's function, as recipient of a call and as author of its result."""
    return f"{FUNCTIONS}.{shown_name(function_name)}"


def function_name(recipient: str) -> str:
    """The client's name for a recipient; a call to something else keeps the name the model gave it."""
    name = recipient.removeprefix(FUNCTIONS + ".") or recipient
    return name.removeprefix(_OWN) if _bare(name) in _TAKEN else name


def _bare(name: str) -> str:
    while name.startswith(_OWN):
        name = name.removeprefix(_OWN)
    return name


def _function(tool: Tool, where: str) -> FunctionTool:
    function = tool.function
    if function.parameters:
        check_schema(function.parameters, f"{where}.parameters")
    return FunctionTool(shown_name(function.name), function.description or "", function.parameters or None)


def check_schema(schema: Mapping[str, Any], where: str, *, any_type: bool = False) -> None:
    """RequestError unless `schema` is a JSON schema (draft 2020-12), of type object or with `any_type`, and
    within the limits of size and depth."""
    try:
        text = json.dumps(schema, allow_nan=False)
        large = f"it is longer than {MAX_SCHEMA_CHARS} characters" if len(text) > MAX_SCHEMA_CHARS else None
        complaint = large or _schema_complaint(text)
        if complaint is None and not any_type and schema.get("type") != "object":
            complaint = "its type must be 'object'"
    except ValueError:
        complaint = "it holds a number that is not finite"
    except RecursionError:
        complaint = "it is nested too deeply"
    if complaint:
        raise RequestError(f"{where} is not a valid JSON schema: {complaint}.", param=where)


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        values = [part.values() if isinstance(part, dict) else part for part in level]
        level = [part for parts in values for part in parts if isinstance(part, dict | list)]
        if not level:
            return False
    return True


_NO_FORMATS = FormatChecker(formats=())
"""A pattern is ECMA's: Python's own regular expressions refuse some of them (\\p{L}) and read others wrongly.
Whoever holds an answer to one says what is wrong with it."""


@lru_cache(maxsize=1024)  # agents send the same tools with every turn
def _schema_complaint(text: str) -> str | None:
    schema = json.loads(text)
    if _is_deeper(schema, MAX_SCHEMA_DEPTH):
        return f"it is nested deeper than {MAX_SCHEMA_DEPTH} levels"
    try:
        Draft202012Validator.check_schema(schema, format_checker=_NO_FORMATS)
    except SchemaError as error:
        at = "".join(f"[{step!r}]" for step in error.absolute_path)
        return f"{error.message[:200]}{f' at {at}' if at else ''}"
    return None
