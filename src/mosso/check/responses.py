"""The Responses API: answers, the order of stream events, conversations kept by the server, functions."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from mosso.check.case import Fault, NotThere, case, dig, expect, shown
from mosso.check.server import Answer, Server, Stream
from mosso.check.talk import SUM
from mosso.check.tools import QUESTION, RESULT, WEATHER

PATH = "/v1/responses"
TOOL = {"type": "function", "strict": False, **WEATHER["function"]}
ENDS = ("response.completed", "response.incomplete", "response.failed")
DELTAS = ("output_text", "reasoning_text", "function_call_arguments")


def request(server: Server, given: Any, **fields: Any) -> dict[str, Any]:
    return {"model": server.model, "input": given, "temperature": 0, **fields}


def found(answer: Answer) -> Any:
    """The body; NotThere where there is no such API."""
    if answer.status in (404, 405, 501):
        raise NotThere("there is no Responses API here")
    expect(answer.status == 200, f"a valid request is answered {answer.status}: {answer.complaint}")
    return answer.body


async def create(server: Server, given: Any, **fields: Any) -> dict[str, Any]:
    body = found(await server.post(PATH, request(server, given, **fields)))
    return noted(server, body)


def noted(server: Server, body: Any) -> dict[str, Any]:
    """Checks the response's outline and keeps what was said."""
    for item in dig(body, "output", list):
        kind = dig(item, "type", str)
        if kind == "function_call":
            server.said.append(("arguments", dig(item, "arguments", str)))
        for part in item.get("content") or []:
            server.said.append((f"{kind} of a response", dig(part, "text", str)))
    return dict(body)


def text_of(body: dict[str, Any]) -> str:
    """All output text, as SDKs join it."""
    parts = [
        part for item in body["output"] if item["type"] == "message" for part in dig(item, "content", list)
    ]
    return "".join(dig(part, "text", str) for part in parts if part.get("type") == "output_text")


async def events_of(server: Server, given: Any, **fields: Any) -> list[dict[str, Any]]:
    stream = await server.stream(PATH, request(server, given, stream=True, **fields))
    if stream.status != 200:
        found(stream.whole)
    return _events(stream)


def _events(stream: Stream) -> list[dict[str, Any]]:
    events = []
    for name, data in stream.events:
        if data == "[DONE]":
            continue
        try:
            event = json.loads(data)
        except ValueError:
            raise Fault(f"an event is not JSON: {shown(data)}") from None
        kind = dig(event, "type", str)
        expect(name in ("", kind), f"the event {name} says it is {kind}")
        events.append(event)
    expect(events, "the stream is empty")
    return events


def check_order(server: Server, events: list[dict[str, Any]]) -> dict[str, Any]:
    """The final response of a stream in the specification's order; Fault says where it is not."""
    numbers = [dig(event, "sequence_number", int) for event in events]
    first = numbers[0]
    expect(numbers == list(range(first, first + len(numbers))), f"sequence numbers go {shown(numbers)}")
    kinds = [event["type"] for event in events]
    expect(kinds[0] == "response.created", f"the first event is {kinds[0]}")
    expect(kinds[-1] in ENDS, f"the last event is {kinds[-1]}")
    items = _check_items(events)
    final: dict[str, Any] = dig(events[-1], "response", dict)
    ids = [dig(item, "id", str) for item in dig(final, "output", list)]
    expect(
        ids == list(items.values()),
        f"the items were {shown(list(items.values()))}, the response has {shown(ids)}",
    )
    expect(dig(events[0], "response.id") == final.get("id"), "the response's id changes")
    return noted(server, final)


def _check_items(events: list[dict[str, Any]]) -> dict[int, str]:
    """Each item is added, told in deltas, told whole, done. Gives the items' ids by their place."""
    opened: dict[int, str] = {}
    done: dict[int, str] = {}
    told: defaultdict[tuple[Any, ...], str] = defaultdict(str)
    for event in events:
        kind = event["type"].removeprefix("response.")
        if "output_index" not in event:
            continue
        place = dig(event, "output_index", int)
        if kind == "output_item.added":
            opened[place] = dig(event, "item.id", str)
            continue
        expect(place in opened, f"{kind} of item {place} comes before the item is added")
        expect(place not in done, f"{kind} of item {place} comes after the item is done")
        name, _, step = kind.rpartition(".")
        key = (name, place, event.get("content_index"))
        if name in DELTAS and step == "delta":
            told[key] += dig(event, "delta", str)
        elif name in DELTAS and step == "done":
            whole = dig(event, "arguments" if name == "function_call_arguments" else "text", str)
            expect(
                told[key] == whole,
                f"the deltas of {name} are {shown(told[key])}, the whole is {shown(whole)}",
            )
        elif kind == "output_item.done":
            done[place] = dig(event, "item.id", str)
    expect(opened == done, f"items {sorted(opened.keys() - done.keys())} are never done")
    expect(sorted(done) == list(range(len(done))), f"the items' places are {sorted(done)}")
    return dict(sorted(done.items()))


@case("responses.create", "a response has the published form, with usage")
async def created(server: Server) -> None:
    body = await create(server, SUM)
    expect(body.get("object") == "response", f"object is {shown(body.get('object'))}")
    expect(body.get("status") == "completed", f"status is {shown(body.get('status'))}")
    expect(dig(body, "id", str), "id is empty")
    dig(body, "created_at", float)
    expect(text_of(body), "the answer to a sum has no text")
    counts = dig(body, "usage", dict)
    total = dig(counts, "input_tokens", int) + dig(counts, "output_tokens", int)
    expect(total == dig(counts, "total_tokens", int) > 1, f"the counts do not add up: {shown(counts)}")


@case("responses.stream", "events come in order, numbered, and add up to the response")
async def streamed(server: Server) -> None:
    events = await events_of(server, SUM)
    final = check_order(server, events)
    expect(final.get("status") == "completed", f"status is {shown(final.get('status'))}")
    expect(text_of(final), "the answer to a sum has no text")
    expect(
        any(event["type"] == "response.output_text.delta" for event in events), "the text came without deltas"
    )


@case("responses.reasoning", "the thinking is an item of its own, and streams as reasoning_text")
async def reasoning(server: Server) -> None:
    events = await events_of(server, SUM)
    final = check_order(server, events)
    items = [item for item in final["output"] if item["type"] == "reasoning"]
    if not any(item.get("content") for item in items):
        raise NotThere("no thinking is given")
    kinds = [part.get("type") for item in items for part in item["content"]]
    expect(set(kinds) == {"reasoning_text"}, f"its parts are {shown(kinds)}")
    expect(
        any(event["type"] == "response.reasoning_text.delta" for event in events), "it came without deltas"
    )


@case("responses.previous", "previous_response_id goes on with a conversation")
async def previous(server: Server) -> None:
    first = await create(server, "What is 120 + 5?", store=True)
    answer = await server.post(
        PATH, request(server, "Now double it.", store=True, previous_response_id=first["id"])
    )
    body = noted(server, found(answer) if answer.status == 200 else _unkept(answer))
    expect("250" in text_of(body), f"125 doubled is answered {shown(text_of(body))}")


def _unkept(answer: Answer) -> Any:
    if 400 <= answer.status < 500:
        raise NotThere(f"responses are not kept: {answer.complaint}")
    raise Fault(f"previous_response_id is answered {answer.status}: {answer.complaint}")


@case("responses.kept", "a stored response can be fetched and deleted")
async def kept(server: Server) -> None:
    made = await create(server, SUM, store=True)
    path = f"{PATH}/{made['id']}"
    got = await server.get(path)
    if got.status in (404, 405, 501):
        raise NotThere("responses are not kept")
    expect(dig(found(got), "id") == made["id"], "another response was fetched")
    expect(text_of(noted(server, got.body)) == text_of(made), "the fetched text is another")
    expect(dig(found(await server.delete(path)), "deleted") is True, "deleted is not true")
    gone = await server.get(path)
    expect(gone.status == 404, f"a deleted response is answered {gone.status}")


@case("responses.unkept", "an unknown previous_response_id is a 4xx")
async def unkept(server: Server) -> None:
    await create(server, SUM)  # is there such an API at all?
    answer = await server.post(PATH, request(server, SUM, previous_response_id="resp_0"))
    expect(400 <= answer.status < 500, f"it is answered {answer.status}: {answer.complaint}")
    dig(answer.body, "error.message", str)


def _call(body: dict[str, Any]) -> dict[str, Any]:
    """The response's call, checked."""
    calls = [item for item in body["output"] if item["type"] == "function_call"]
    if not calls:
        expect(text_of(body), "there is neither a call nor a text")
        raise NotThere(f"the model answered without a call: {shown(text_of(body))}")
    expect(dig(calls[0], "name", str) == "get_weather", f"the call is to {shown(calls[0]['name'])}")
    expect(dig(calls[0], "call_id", str), "call_id is empty")
    try:
        values = json.loads(dig(calls[0], "arguments", str))
    except ValueError:
        raise Fault(f"the arguments are not JSON: {shown(calls[0]['arguments'])}") from None
    expect(isinstance(values, dict) and "city" in values, f"the arguments are {shown(values)}")
    return dict(calls[0])


@case("responses.call", "a function is called, its result sent back, and the answer uses it")
async def call(server: Server) -> None:
    body = await create(server, QUESTION, tools=[TOOL], store=False)
    result = {"type": "function_call_output", "call_id": _call(body)["call_id"], "output": RESULT}
    given = [{"role": "user", "content": QUESTION}, *body["output"], result]
    answer = await create(server, given, tools=[TOOL], store=False)
    expect("18" in text_of(answer), f"the answer does not use the result: {shown(text_of(answer))}")


@case("responses.call_stream", "a streamed call: argument deltas add up to the arguments")
async def call_stream(server: Server) -> None:
    events = await events_of(server, QUESTION, tools=[TOOL], store=False)
    _call(check_order(server, events))
    kinds = {event["type"] for event in events}
    for kind in ("delta", "done"):
        expect(f"response.function_call_arguments.{kind}" in kinds, f"there is no arguments.{kind} event")


@case("responses.schema", "text.format json_schema is obeyed")
async def schema(server: Server) -> None:
    form = {
        "type": "json_schema",
        "name": "lamp",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"state": {"enum": ["on", "off"]}},
            "required": ["state"],
            "additionalProperties": False,
        },
    }
    answer = await server.post(PATH, request(server, "Is the lamp on or off? JSON.", text={"format": form}))
    if answer.status == 400 and "format" in answer.text:
        raise NotThere(f"text.format is refused by name: {answer.complaint}")
    text = text_of(noted(server, found(answer)))
    expect(
        text.replace(" ", "").strip() in ('{"state":"on"}', '{"state":"off"}'), f"the answer is {shown(text)}"
    )
