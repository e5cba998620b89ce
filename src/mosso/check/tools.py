"""Functions in chat: calls and their arguments, streamed and not, results, and who chooses."""

from __future__ import annotations

import json
from typing import Any

from mosso.check.case import NotThere, case, expect, shown
from mosso.check.server import Server
from mosso.check.talk import SUM, Call, Said, ask, hear

QUESTION = "What is the weather in Paris?"
RESULT = json.dumps({"temperature": 18, "condition": "rain"})


def function(name: str, about: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": about, "parameters": schema, **more},
    }


CITY = {"city": {"type": "string", "description": "The city name"}}
SWITCH = {"state": {"type": "string", "enum": ["on", "off"]}}
WEATHER = function("get_weather", "Get the current weather for a city.", CITY)
LAMP = function("set_lamp", "Switch the lamp.", SWITCH)


def call_of(said: Said, name: str) -> Call:
    """The answer's call, checked; NotThere where the model did not make one."""
    if not said.calls:
        raise NotThere(f"the model answered without a call: {shown(said.content)}")
    call = said.calls[0]
    expect(call.name == name, f"the call is to {shown(call.name)}, not {name}")
    expect(said.finish == "tool_calls", f"finish_reason is {shown(said.finish)} with a call")
    ids = [each.id for each in said.calls]
    expect(len(set(ids)) == len(ids), f"two calls have one id: {shown(ids)}")
    return call


def forced_call_of(said: Said, name: str) -> Call:
    """The same where tool_choice demands a call."""
    expect(said.calls, f"the model had to call and did not: {shown(said.content)}")
    call = call_of(said, name)
    state = call.values.get("state")
    expect(state in SWITCH["state"]["enum"], f"the arguments are {shown(call.arguments)}")
    return call


@case("tools.call", "a call has an id, a name and JSON arguments")
async def call(server: Server) -> None:
    values = call_of(await ask(server, QUESTION, tools=[WEATHER]), "get_weather").values
    expect("city" in values, f"the required argument is missing: {shown(values)}")


@case("tools.stream", "a streamed call is put together from its pieces")
async def stream(server: Server) -> None:
    whole = call_of(await ask(server, QUESTION, tools=[WEATHER]), "get_weather")
    streamed = call_of(await hear(server, QUESTION, tools=[WEATHER]), "get_weather")
    same = whole.values == streamed.values
    expect(same, f"whole {shown(whole.arguments)}, streamed {shown(streamed.arguments)}")


def _after(said: Said, **fields: Any) -> list[dict[str, Any]]:
    """The conversation after the calls, with their results."""
    call_of(said, "get_weather")
    spoken = {"role": "assistant", "content": None, "tool_calls": [each.json for each in said.calls]}
    results = [{"role": "tool", "tool_call_id": each.id, "content": RESULT} for each in said.calls]
    return [{"role": "user", "content": QUESTION}, {**spoken, **fields}, *results]


@case("tools.result", "a function's result reaches the model, which answers from it")
async def result(server: Server) -> None:
    messages = _after(await ask(server, QUESTION, tools=[WEATHER]))
    for said in (
        await ask(server, messages, tools=[WEATHER]),
        await hear(server, messages, tools=[WEATHER]),
    ):
        expect("18" in said.content, f"the answer does not use the result: {shown(said.content)}")
        expect(said.finish == "stop", f"finish_reason is {shown(said.finish)}")


@case("tools.thinking", "thinking may be passed back between calls, under the server's own field")
async def thinking(server: Server) -> None:
    called = await ask(server, QUESTION, tools=[WEATHER])
    if not called.reasoning:
        raise NotThere("no thinking is given before the call")
    fields = dict.fromkeys(called.reasoning_field.split(" and "), called.reasoning)
    said = await ask(server, _after(called, **fields), tools=[WEATHER])
    expect("18" in said.content, f"the answer does not use the result: {shown(said.content)}")


@case("tools.none", "tool_choice none: no call")
async def none(server: Server) -> None:
    said = await ask(server, QUESTION, tools=[WEATHER], tool_choice="none")
    expect(not said.calls, "there is a call")
    expect(said.finish != "tool_calls", "finish_reason is tool_calls")


@case("tools.required", "tool_choice required: a call, whatever is asked")
async def required(server: Server) -> None:
    for say in (ask, hear):
        said = await say(server, SUM, tools=[LAMP], tool_choice="required", optional="tool_choice")
        forced_call_of(said, "set_lamp")


@case("tools.named", "tool_choice with a name: a call of that function")
async def named(server: Server) -> None:
    choice = {"type": "function", "function": {"name": "set_lamp"}}
    said = await ask(server, QUESTION, tools=[WEATHER, LAMP], tool_choice=choice, optional="tool_choice")
    expect(said.calls, f"the model had to call and did not: {shown(said.content)}")
    state = said.calls[0].values.get("state")
    expect(said.calls[0].name == "set_lamp", f"the call is to {shown(said.calls[0].name)}")
    expect(state in SWITCH["state"]["enum"], f"the arguments are {shown(said.calls[0].arguments)}")


@case("tools.taken", "a function named like one of gpt-oss's own tools is called as a function")
async def taken(server: Server) -> None:
    tool = function("python", "Switch the python's lamp.", SWITCH)
    said = await ask(server, SUM, tools=[tool], tool_choice="required", optional="tool_choice")
    forced_call_of(said, "python")


@case("tools.strict", "arguments of a strict function are of its schema")
async def strict(server: Server) -> None:
    tool = function("set_lamp", "Switch the lamp.", SWITCH, strict=True)
    said = await ask(server, "Please call set_lamp with state on.", tools=[tool], optional="strict")
    called = call_of(said, "set_lamp")
    expect(called.values.get("state") in SWITCH["state"]["enum"], f"they are {shown(called.arguments)}")
