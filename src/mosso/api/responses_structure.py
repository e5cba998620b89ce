"""The form of a turn, as the Responses API asks for it; see `structure` for what it means."""

from __future__ import annotations

from typing import Any

from mosso.api.responses_schema import (
    FreeFormat,
    FunctionChoice,
    FunctionTool,
    ResponsesRequest,
    SchemaFormat,
    TextFormat,
)
from mosso.api.structure import Offer, answer_schema, forced_call, free_turn
from mosso.core.constraints import Grammar, GrammarKind, TurnConstraint
from mosso.core.json import JsonObject


def responses_constraint(body: ResponsesRequest) -> TurnConstraint | None:
    """The turn's constraint, None where the model is free. RequestError names what is wrong."""
    offers = [
        Offer(tool.name, tool.parameters, bool(tool.strict), f"tools[{position}].parameters")
        for position, tool in enumerate(body.tools)
        if isinstance(tool, FunctionTool)
    ]
    choice = body.tool_choice
    if isinstance(choice, FunctionChoice):
        return forced_call(offers, choice.name)
    if choice == "required":
        return forced_call(offers)
    return free_turn(_answer(body.text.format), [] if choice == "none" else offers)


def _answer(form: TextFormat | None) -> Grammar | None:
    if isinstance(form, SchemaFormat):
        return answer_schema(form.schema_, "text.format.schema")
    if form is not None and form.type == "json_object":
        return Grammar(GrammarKind.JSON_OBJECT, param="text.format")
    return None


def shown_formats(body: ResponsesRequest) -> dict[str, JsonObject]:
    """The schema that the answer will be held to, for the developer message."""
    form = body.text.format
    if not isinstance(form, SchemaFormat):
        return {}
    description = {} if form.description is None else {"description": form.description}
    return {form.name: description | form.schema_}


def format_json(form: TextFormat | None) -> dict[str, Any]:
    """The format as the answer tells it back."""
    return (form or FreeFormat(type="text")).model_dump(by_alias=True)


def choice_json(choice: str | FunctionChoice) -> str | dict[str, Any]:
    return choice if isinstance(choice, str) else choice.model_dump()
