"""What a client asks of a turn's form → core's TurnConstraint. The engine enforces it or refuses it by name.

Once a turn has a constraint, all of its calls have one: a function that is not strict gets its schema where
that can be honoured, else any JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mosso.api.chat_schema import ChatRequest, NamedToolChoice, ResponseFormat, StructuredOutputs
from mosso.api.sampling import SamplingFields
from mosso.api.tool_calls import FUNCTIONS, check_schema, recipient
from mosso.core.constraints import Call, Grammar, GrammarKind, Turn, TurnConstraint
from mosso.core.errors import RequestError
from mosso.core.requests import Request

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_BARE = frozenset({"type", "properties", "required", "title", "description", "$schema"})


@dataclass(frozen=True, slots=True)
class Offer:
    """A function that the turn may call; `param` is where the client wrote its parameters. `server`: the MCP
    server whose tool it is; its name is then what the model is shown. `builtin`: the recipient of a tool of
    the model's own. `content`: what the call is instead of JSON."""

    name: str
    parameters: Mapping[str, Any] | None
    strict: bool
    param: str
    server: str | None = None
    builtin: str | None = None
    content: Grammar | None = None

    @property
    def recipient(self) -> str:
        if self.builtin is not None:
            return self.builtin
        return recipient(self.name) if self.server is None else f"{FUNCTIONS}.{self.name}"


def turn_of(body: ChatRequest) -> Turn:
    """What a chat turn may say; RequestError names what is wrong."""
    offered = () if body.tool_choice == "none" else body.tools or ()
    return Turn(constraint_of(body), tuple(recipient(tool.function.name) for tool in offered), body.budget)


def with_turn(request: Request, turn: Turn) -> Request:
    """The request, with what its turn may say."""
    return replace(
        request, constraint=turn.form, recipients=turn.recipients, thinking_budget=turn.thinking_budget
    )


def constraint_of(body: ChatRequest) -> TurnConstraint | None:
    """The constraint of a chat turn, None where the model is free. RequestError names what is wrong."""
    offers = [
        Offer(tool.function.name, tool.function.parameters, bool(tool.function.strict),
              f"tools[{position}].function.parameters")
        for position, tool in enumerate(body.tools or [])
    ]  # fmt: skip
    choice = body.tool_choice
    constraint: TurnConstraint | None
    if isinstance(choice, NamedToolChoice):
        constraint = forced_call(offers, choice.function.name)
    elif choice == "required":
        constraint = forced_call(offers)
    else:
        free = bool(body.ignore_eos or body.min_tokens)  # what is measured so is no conversation
        constraint = free_turn(_answer(body), [] if choice == "none" else offers, held=not free)
    if constraint is not None:
        check_ends(body)
    return constraint


def forced_call(offers: Sequence[Offer], name: str | None = None) -> TurnConstraint:
    """The turn ends in a call: of the function `name`, or of any."""
    wanted = [offer for offer in offers if name in (None, offer.name)]
    if not wanted:
        missing = "tool_choice: there are no tools to call." if name is None else (
            f"tool_choice: no tool is named {name[:64]!r}.")  # fmt: skip
        raise RequestError(missing, param="tool_choice")
    return TurnConstraint(None, tuple(map(_call, wanted)))


def free_turn(answer: Grammar | None, offers: Sequence[Offer], *, held: bool = True) -> TurnConstraint | None:
    """The model chooses between an answer, of the form `answer` if there is one, and the calls.

    Whoever offers functions gets calls of these, with arguments of their schemas, strict or not: `held` off
    leaves the model free where no function is strict.
    """
    if answer is None and not any(held or offer.strict for offer in offers):
        return None
    return TurnConstraint(answer or Grammar(GrammarKind.TEXT), tuple(map(_call, offers)))


def check_ends(fields: SamplingFields) -> None:
    """The constraint says where the turn ends; these fields would have it go on."""
    for name in ("ignore_eos", "min_tokens"):
        if getattr(fields, name):
            raise RequestError(f"{name} cannot go together with structured output.", param=name)


def schema_grammar(schema: Mapping[str, Any], param: str, *, strict: bool = True) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema), param, strict)


def answer_schema(schema: Mapping[str, Any], param: str) -> Grammar:
    """An answer's schema, which may be of any type; RequestError unless it is one."""
    check_schema(schema, param, any_type=True)
    return schema_grammar(schema, param)


def _call(offer: Offer) -> Call:
    if offer.content is not None:
        return Call(offer.recipient, offer.content)
    schema = _schema_of(offer.parameters)
    return Call(offer.recipient, schema_grammar(schema, offer.param, strict=offer.strict))


def _schema_of(parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Of a function's arguments: where the client lists properties, and there are none, it means none."""
    if not parameters:
        return NO_ARGUMENTS
    lists_none = parameters.get("properties") == {} and not parameters.keys() - _BARE
    return NO_ARGUMENTS if lists_none else parameters


def _answer(body: ChatRequest) -> Grammar | None:
    return one_form(_formatted(body.response_format), body.structured_outputs, "response_format")


def one_form(form: Grammar | None, outputs: StructuredOutputs | None, name: str) -> Grammar | None:
    """The answer's form, which either the field `name` says or `structured_outputs`."""
    if outputs is None:
        return form
    if form is not None:
        raise RequestError(f"Give either {name} or structured_outputs.", param="structured_outputs")
    return _structured(outputs)


def _formatted(form: ResponseFormat | None) -> Grammar | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return Grammar(GrammarKind.JSON_OBJECT, param="response_format")
    if form.json_schema is None:
        raise RequestError("response_format.json_schema is missing.", param="response_format.json_schema")
    return answer_schema(form.json_schema.schema_, "response_format.json_schema.schema")


def _structured(outputs: StructuredOutputs) -> Grammar:
    given = {name: value for name, value in outputs if value is not None}
    if len(given) != 1:
        raise RequestError(
            "structured_outputs takes one of json, regex, choice and grammar.", param="structured_outputs"
        )
    ((name, value),) = given.items()
    where = f"structured_outputs.{name.rstrip('_')}"
    match name:
        case "json_":
            return answer_schema(value, where)
        case "choice":
            return Grammar(GrammarKind.CHOICE, json.dumps(value), where)
        case "regex":
            return Grammar(GrammarKind.REGEX, value, where)
        case _:
            return Grammar(GrammarKind.LARK, value, where)
