"""The form of a turn, as the Responses API asks for it; see `structure` for what it means."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mosso.api.responses_functions import client_tools
from mosso.api.responses_schema import (
    CustomChoice,
    FreeFormat,
    FunctionChoice,
    ResponsesRequest,
    SchemaFormat,
    TextFormat,
)
from mosso.api.responses_tool_schema import CodeChoice, McpChoice, SearchChoice
from mosso.api.responses_toolset import Toolset
from mosso.api.structure import Offer, answer_schema, forced_call, free_turn, one_form
from mosso.core.constraints import Grammar, GrammarKind, Turn, TurnConstraint
from mosso.core.json import JsonObject

PYTHON, BROWSER = "python", "browser."  # how the model calls its own


def first_turn(body: ResponsesRequest, toolset: Toolset) -> Turn:
    """What the first turn may say; RequestError names what is wrong."""
    return Turn(_first_form(body, toolset), _recipients(body, toolset), body.budget)


def later_turn(body: ResponsesRequest, toolset: Toolset, *, hosted: bool, thought: int) -> Turn:
    """What a turn may say that follows calls of built-in tools, and `thought` tokens of thinking. Without
    `hosted` there are no more of these calls: the limit is reached, so the turn cannot make one."""
    budget = body.budget
    left = None if budget is None else max(0, budget - thought)
    if hosted:
        return Turn(_free_form(body, toolset), _recipients(body, toolset), left)
    answer = _answer(body) or Grammar(GrammarKind.TEXT)
    return Turn(free_turn(answer, _offered(body)), _recipients(body, Toolset()), left)


def _recipients(body: ResponsesRequest, toolset: Toolset) -> tuple[str, ...]:
    return tuple(offer.recipient for offer in (*_offered(body), *toolset.offers))


def _first_form(body: ResponsesRequest, toolset: Toolset) -> TurnConstraint | None:
    choice = body.tool_choice
    if isinstance(choice, FunctionChoice | CustomChoice):
        return forced_call(_own(body), choice.name)
    if isinstance(choice, McpChoice):
        return forced_call(_of_server(choice, toolset))
    if isinstance(choice, CodeChoice):
        return forced_call([offer for offer in toolset.offers if offer.builtin == PYTHON])
    if isinstance(choice, SearchChoice):
        return forced_call([offer for offer in toolset.offers if (offer.builtin or "").startswith(BROWSER)])
    if choice == "required":
        return forced_call([*_own(body), *toolset.offers])
    return _free_form(body, toolset)


def _free_form(body: ResponsesRequest, toolset: Toolset) -> TurnConstraint | None:
    """Of a turn in which the model chooses; a forced call is made once."""
    return free_turn(_answer(body), [*_offered(body), *toolset.offers])


def _offered(body: ResponsesRequest) -> list[Offer]:
    """The client's functions that the model is shown."""
    return [] if body.tool_choice == "none" else _own(body)


def _own(body: ResponsesRequest) -> list[Offer]:
    return [tool.offer() for tool in client_tools(body)]


def _of_server(choice: McpChoice, toolset: Toolset) -> list[Offer]:
    wanted = [offer for offer in toolset.offers if offer.server == choice.server_label]
    if choice.name is not None:
        name = toolset.mcp_recipient(choice.server_label, choice.name)
        wanted = [offer for offer in wanted if offer.recipient == name]
    return wanted


def _answer(body: ResponsesRequest) -> Grammar | None:
    return one_form(_formatted(body.text.format), body.structured_outputs, "text.format")


def _formatted(form: TextFormat | None) -> Grammar | None:
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


def choice_json(choice: str | BaseModel) -> str | dict[str, Any]:
    return choice if isinstance(choice, str) else choice.model_dump(exclude_none=True)
