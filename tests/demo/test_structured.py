"""Structured output through the openai package, a socket, and the demo: always in the form asked for."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER, "strict": True}},
    {"type": "function", "function": {"name": "get_time"}},
]
USER: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]


class Person(BaseModel):
    name: Literal["Ann", "Bob"]
    age: int
    likes: list[Literal["tea", "chess"]]


def ask(demo: Any, **fields: Any) -> Any:
    fields = {
        "model": "demo",
        "messages": USER,
        "max_tokens": 900,
        "reasoning_effort": "low",
        "seed": 1,
    } | fields
    return demo.client.chat.completions.create(**fields).choices[0]


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": True}}


def test_a_schema_with_logprobs_and_thinking(demo) -> None:
    choice = ask(demo, response_format=schema_format(WEATHER), logprobs=True, top_logprobs=2)
    assert choice.finish_reason == "stop"
    Draft202012Validator(WEATHER).validate(json.loads(choice.message.content))
    shown = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content)
    assert shown.decode() == choice.message.content
    assert choice.message.reasoning, "the thinking is free, and apart"


SCHEMA_OR_CALL = [("What is 17 + 25?", "answer"), ("What is the weather in Paris?", "call")]
TOGETHER: dict[str, Any] = {"model": "demo", "temperature": 0, "top_logprobs": 2}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("question", "kind"), SCHEMA_OR_CALL)
def test_chat_takes_log_probabilities_a_schema_and_tools_together(demo, question, kind, stream) -> None:
    """The choice, and the model's greedy answers to it, are the demo's; the forms are the masks'."""
    fields = TOGETHER | {"tools": TOOLS, "response_format": schema_format(WEATHER), "logprobs": True}
    made = demo.client.chat.completions.create(
        messages=[{"role": "user", "content": question}], reasoning_effort="low", stream=stream, **fields
    )
    choices = [chunk.choices[0] for chunk in made] if stream else made.choices
    said = [choice.delta if stream else choice.message for choice in choices]
    content = "".join(piece.content or "" for piece in said)
    calls = [call.function for piece in said for call in piece.tool_calls or []]
    arguments = "".join(call.arguments or "" for call in calls)
    assert "".join(call.name or "" for call in calls) == ("get_weather" if kind == "call" else "")
    assert choices[-1].finish_reason == ("tool_calls" if kind == "call" else "stop")
    Draft202012Validator(WEATHER).validate(json.loads(content or arguments))
    told = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert b"".join(bytes(entry.bytes) for entry in told).decode() == content
    assert all(len(entry.top_logprobs) == 2 for entry in told)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("question", "kind"), SCHEMA_OR_CALL)
def test_responses_take_log_probabilities_a_schema_and_tools_together(demo, question, kind, stream) -> None:
    form = {"type": "json_schema", "name": "form", "schema": WEATHER, "strict": True}
    tool = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}
    made = demo.client.responses.create(
        input=question, tools=[tool], text={"format": form}, reasoning={"effort": "low"}, stream=stream,
        include=["message.output_text.logprobs"], **TOGETHER,
    )  # fmt: skip
    events = list(made) if stream else []
    last = (events[-1].response if stream else made).output[-1]
    if kind == "call":
        assert (last.type, last.name) == ("function_call", "get_weather")
        text = last.arguments
    else:
        (part,) = last.content
        text = part.text
        assert b"".join(bytes(entry.bytes) for entry in part.logprobs).decode() == text
        assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)
        deltas = [event for event in events if event.type == "response.output_text.delta"]
        told = [entry for event in deltas for entry in event.logprobs]
        assert [entry.token for entry in told] == [entry.token for entry in part.logprobs if stream]
    Draft202012Validator(WEATHER).validate(json.loads(text))


def test_parse_fills_a_model(demo) -> None:
    made = demo.client.chat.completions.parse(
        model="demo", messages=USER, response_format=Person, max_tokens=900, seed=1
    )
    assert isinstance(made.choices[0].message.parsed, Person)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "function": {"name": "get_time"}}, {"get_time"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call(demo, choice, names, stream) -> None:
    fields = {"tools": TOOLS, "tool_choice": choice}
    if stream:
        name = text = ""
        chunks = demo.client.chat.completions.create(
            model="demo", messages=USER, stream=True, reasoning_effort="low", seed=1, **fields
        )
        for chunk in chunks:
            assert not chunk.choices[0].delta.content, "no answer"
            for piece in chunk.choices[0].delta.tool_calls or []:
                name += piece.function.name or ""
                text += piece.function.arguments or ""
    else:
        (call,) = ask(demo, **fields).message.tool_calls
        name, text = call.function.name, call.function.arguments
    assert name in names
    expected = WEATHER if name == "get_weather" else {"type": "object", "maxProperties": 0}
    Draft202012Validator(expected).validate(json.loads(text))


def test_other_forms(demo) -> None:
    found = ask(demo, extra_body={"structured_outputs": {"regex": r"\d{2}-[ab]{3}"}})
    assert re.fullmatch(r"\d{2}-[ab]{3}", found.message.content)
    assert ask(demo, extra_body={"structured_outputs": {"choice": ["no", "yes"]}}).message.content in (
        "no",
        "yes",
    )
    lark = 'start: "<" WORD ">"\nWORD: /[a-z]{3}/'
    assert re.fullmatch(
        "<[a-z]{3}>", ask(demo, extra_body={"structured_outputs": {"grammar": lark}}).message.content
    )
    ebnf = 'root ::= "<" word ">"\nword ::= [a-z] [a-z] [a-z]'
    answer = demo.client.responses.create(
        model="demo", input="hi", extra_body={"structured_outputs": {"grammar": ebnf}, "seed": 1}
    )
    assert re.fullmatch("<[a-z]{3}>", answer.output_text)
    started = ask(demo, response_format={"type": "json_object"}, max_tokens=80).message.content
    assert started.startswith("{"), "so small a model may never close an object of its own"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"response_format": schema_format({"type": "array", "uniqueItems": True})},
         "response_format.json_schema.schema", "uniqueItems"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {
            "type": "object", "dependentRequired": {"a": ["b"]}}}}]},
         "tools[0].function.parameters", "dependentRequired"),
        ({"extra_body": {"structured_outputs": {"regex": "(a"}}}, "structured_outputs.regex", "regex"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_a_400_that_names_it(demo, fields, param, word, stream) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        demo.client.chat.completions.create(model="demo", messages=USER, stream=stream, **fields)
    assert caught.value.param == param
    assert word in caught.value.message


def test_responses_have_forms_too(demo) -> None:
    fields: Any = {"model": "demo", "input": "What is 17 + 25?", "reasoning": {"effort": "low"}}
    fields["extra_body"] = {"seed": 1}
    form = {"type": "json_schema", "name": "form", "schema": WEATHER}
    answer = demo.client.responses.create(text={"format": form}, **fields)
    Draft202012Validator(WEATHER).validate(json.loads(answer.output_text))
    assert answer.text.format.to_dict()["schema"] == WEATHER
    tool = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}
    for choice in ("required", {"type": "function", "name": "get_weather"}):
        called = demo.client.responses.create(tools=[tool], tool_choice=choice, **fields).output[-1]
        assert called.type == "function_call"
        Draft202012Validator(WEATHER).validate(json.loads(called.arguments))
    parsed = demo.client.responses.parse(text_format=Person, **fields)
    assert isinstance(parsed.output_parsed, Person)


@pytest.mark.parametrize("stream", [False, True])
def test_responses_name_what_cannot_be_honoured(demo, stream) -> None:
    form: Any = {"type": "json_schema", "name": "form", "schema": {"type": "array", "uniqueItems": True}}
    with pytest.raises(openai.BadRequestError) as caught:
        demo.client.responses.create(model="demo", input="hi", text={"format": form}, stream=stream)
    assert caught.value.param == "text.format.schema"
    assert "uniqueItems" in caught.value.message
