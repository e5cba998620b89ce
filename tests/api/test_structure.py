"""From a chat body to the turn's constraint."""

from __future__ import annotations

import json

import pytest

from mosso.api.caller import Caller
from mosso.api.responses_schema import ResponsesRequest
from mosso.api.responses_structure import first_turn, later_turn
from mosso.api.responses_toolset import Toolset
from mosso.api.structure import NO_ARGUMENTS, constraint_of
from mosso.core.constraints import Call, Grammar, GrammarKind, TurnConstraint
from mosso.core.errors import RequestError

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FREE = Grammar(GrammarKind.TEXT)


def tool(name="f", **fields):
    return {"type": "function", "function": {"name": name} | fields}


def format_of(schema, **fields):
    return {"type": "json_schema", "json_schema": {"name": "city", "schema": schema} | fields}


def arguments(position, schema=CITY, *, strict=False):
    where = f"tools[{position}].function.parameters"
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema), where, strict)


@pytest.mark.parametrize(
    "fields",
    [{}, {"response_format": {"type": "text"}}, {"tools": [tool(strict=True)], "tool_choice": "none"},
     {"tools": [tool()], "ignore_eos": True}, {"tools": [tool(strict=False)], "min_tokens": 5}],
)  # fmt: skip
def test_who_asks_for_nothing_is_free(chat, fields):
    assert constraint_of(chat(**fields)) is None


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_response_format(chat, strict):
    answer = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(CITY), "response_format.json_schema.schema")
    assert constraint_of(chat(response_format=format_of(CITY, strict=strict))) == TurnConstraint(answer)
    anything = Grammar(GrammarKind.JSON_OBJECT, param="response_format")
    assert constraint_of(chat(response_format={"type": "json_object"})) == TurnConstraint(anything)


@pytest.mark.parametrize(
    ("outputs", "grammar"),
    [
        ({"regex": "a+"}, Grammar(GrammarKind.REGEX, "a+", "structured_outputs.regex")),
        ({"choice": ["a", "b"]}, Grammar(GrammarKind.CHOICE, '["a", "b"]', "structured_outputs.choice")),
        ({"grammar": "start: A"}, Grammar(GrammarKind.LARK, "start: A", "structured_outputs.grammar")),
        ({"json": CITY}, Grammar(GrammarKind.JSON_SCHEMA, json.dumps(CITY), "structured_outputs.json")),
    ],
)
def test_structured_outputs(chat, outputs, grammar):
    assert constraint_of(chat(structured_outputs=outputs)) == TurnConstraint(grammar)
    body = ResponsesRequest.model_validate({"input": "hi", "structured_outputs": outputs})
    first = first_turn(body, Toolset())
    later = [later_turn(body, Toolset(), hosted=hosted, thought=0) for hosted in (True, False)]
    assert [turn.form for turn in (first, *later)] == [TurnConstraint(grammar)] * 3


def test_forced_calls(chat):
    tools = [tool("f", parameters=CITY, strict=True), tool("g")]
    f = Call("functions.f", arguments(0, strict=True))
    g = Call("functions.g", arguments(1, NO_ARGUMENTS))
    assert constraint_of(chat(tools=tools, tool_choice="required")) == TurnConstraint(None, (f, g))
    named = {"type": "function", "function": {"name": "g"}}
    assert constraint_of(chat(tools=tools, tool_choice=named)) == TurnConstraint(None, (g,))


@pytest.mark.parametrize("strict", [True, False])
def test_tools_constrain_calls_and_leave_the_answer_free(chat, strict):
    tools = [tool("f", parameters=CITY, strict=strict), tool("g", parameters=CITY)]
    calls = (Call("functions.f", arguments(0, strict=strict)), Call("functions.g", arguments(1)))
    assert constraint_of(chat(tools=tools)) == TurnConstraint(FREE, calls)


@pytest.mark.parametrize(
    ("parameters", "closed"),
    [
        ({"type": "object", "properties": {}}, True),
        ({"type": "object", "properties": {}, "required": [], "title": "none"}, True),
        ({"type": "object"}, False),
        ({"type": "object", "properties": {}, "additionalProperties": True}, False),
    ],
)
def test_a_function_that_lists_no_properties_has_no_arguments(chat, parameters, closed):
    (call,) = constraint_of(chat(tools=[tool(parameters=parameters)])).calls
    assert call.arguments == arguments(0, NO_ARGUMENTS if closed else parameters)


def test_an_answer_of_a_form_beside_tools(chat):
    body = chat(tools=[tool(parameters=CITY)], response_format={"type": "json_object"})
    answer = Grammar(GrammarKind.JSON_OBJECT, param="response_format")
    assert constraint_of(body) == TurnConstraint(answer, (Call("functions.f", arguments(0)),))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": format_of({"type": "banana"})}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
        ({"response_format": {"type": "json_object"}, "min_tokens": 1}, "min_tokens"),
        ({"tools": [tool(strict=True)], "ignore_eos": True}, "ignore_eos"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"json": {"type": 1}}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
         "structured_outputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(chat, fields, param):
    with pytest.raises(RequestError) as caught:
        constraint_of(chat(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {}},
        {"structured_outputs": {"regex": "a"}, "text": {"format": {"type": "json_object"}}},
    ],
)
def test_what_responses_cannot_have_is_named(fields):
    body = ResponsesRequest.model_validate({"input": "hi"} | fields)
    with pytest.raises(RequestError) as caught:
        first_turn(body, Toolset())
    assert caught.value.param == "structured_outputs"


def test_the_constraint_reaches_every_choice_and_the_model_sees_the_schema(make, chat, tokenizer):
    services, _ = make("")
    body = chat(response_format=format_of(CITY, description="A city."), n=2, ignore_eos=False)
    first, second = services.chat.prepare(body, Caller()).requests
    assert first.constraint == second.constraint == constraint_of(body)
    prompt = tokenizer.decode(first.prompt, control=True)
    shown = json.dumps({"description": "A city."} | CITY, separators=(",", ":"))
    assert f"# Response Formats\n\n## city\n\n// A city.\n{shown}<|end|>" in prompt
    assert prompt.endswith("<|start|>assistant"), "what constraints continue"
