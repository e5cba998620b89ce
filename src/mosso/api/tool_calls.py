"""Function tools on their way in: checked definitions become Harmony's `functions` namespace."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from mosso.api.chat_schema import ChatRequest, Tool
from mosso.core.errors import RequestError
from mosso.harmony.conversation import FunctionTool, ToolNamespace

FUNCTIONS = "functions"


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
                f"There are two tools named {function.name!r}.", param=f"tools[{position}].function.name"
            )
        seen.add(function.name)
    if not functions or body.tool_choice == "none":
        return None
    return ToolNamespace(FUNCTIONS, tools=functions)


def recipient(function_name: str) -> str:
    """The Harmony name of a function, as recipient of a call and as author of its result."""
    return f"{FUNCTIONS}.{function_name}"


def function_name(recipient: str) -> str:
    """The client's name for a recipient; a call to something else keeps the name the model gave it."""
    return recipient.removeprefix(FUNCTIONS + ".") or recipient


def _function(tool: Tool, where: str) -> FunctionTool:
    function = tool.function
    if function.parameters:
        check_schema(function.parameters, f"{where}.parameters")
    return FunctionTool(function.name, function.description or "", function.parameters or None)


def check_schema(schema: Mapping[str, Any], where: str, *, any_type: bool = False) -> None:
    """RequestError unless `schema` is a JSON schema (draft 2020-12), of type object or with `any_type`."""
    try:
        text = json.dumps(schema, allow_nan=False)
        complaint = _schema_complaint(text)
        if complaint is None and not any_type and schema.get("type") != "object":
            complaint = "its type must be 'object'"
    except ValueError:
        complaint = "it holds a number that is not finite"
    except RecursionError:
        complaint = "it is nested too deeply"
    if complaint:
        raise RequestError(f"{where} is not a valid JSON schema: {complaint}.", param=where)


@lru_cache(maxsize=1024)  # agents send the same tools with every turn
def _schema_complaint(text: str) -> str | None:
    schema = json.loads(text)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        at = "".join(f"[{step!r}]" for step in error.absolute_path)
        return f"{error.message[:200]}{f' at {at}' if at else ''}"
    return None
