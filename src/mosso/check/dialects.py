"""Other dialects on the same port, where there are any: Anthropic's Messages, Ollama's API."""

from __future__ import annotations

import json
from typing import Any

from mosso.check.case import Fault, NotThere, case, dig, expect, shown
from mosso.check.server import Answer, Server
from mosso.check.talk import SUM
from mosso.check.tools import QUESTION, RESULT, WEATHER

MESSAGES, OLLAMA = "/v1/messages", "/api/chat"
ANTHROPIC_TOOL = {
    "name": "get_weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}


def found(answer: Answer, dialect: str) -> Any:
    if answer.status in (404, 405, 501):
        raise NotThere(f"there is no {dialect} API here")
    expect(answer.status == 200, f"a valid request is answered {answer.status}: {answer.complaint}")
    return answer.body


def _message(server: Server, messages: list[Any], **fields: Any) -> dict[str, Any]:
    return {"model": server.model, "max_tokens": 1000, "temperature": 0, "messages": messages, **fields}


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def _anthropic(server: Server, messages: list[Any], **fields: Any) -> dict[str, Any]:
    body = found(await server.post(MESSAGES, _message(server, messages, **fields)), "Anthropic")
    for block in dig(body, "content", list):
        if dig(block, "type", str) == "text":
            server.said.append(("text of a message", dig(block, "text", str)))
    return dict(body)


@case("anthropic.message", "Messages: shape, stop reason, usage")
async def message(server: Server) -> None:
    body = await _anthropic(server, [_user(SUM)])
    for name, value in (("type", "message"), ("role", "assistant"), ("stop_reason", "end_turn")):
        expect(body.get(name) == value, f"{name} is {shown(body.get(name))}, not {value!r}")
    expect(any(block["type"] == "text" for block in body["content"]), "there is no text block")
    expect(dig(body, "usage.input_tokens", int) > 0, "no input tokens are counted")
    expect(dig(body, "usage.output_tokens", int) > 0, "no output tokens are counted")


@case("anthropic.stream", "Messages: events in order, blocks opened and closed")
async def stream(server: Server) -> None:
    answer = await server.stream(MESSAGES, _message(server, [_user(SUM)], stream=True))
    if answer.status != 200:
        found(answer.whole, "Anthropic")
    open_block, blocks, text, kinds = None, 0, "", []
    for name, data in answer.events:
        event = json.loads(data)
        kind = dig(event, "type", str)
        expect(name == kind, f"the event {name!r} says it is {kind!r}")
        if kind == "ping":
            continue
        kinds.append(kind)
        if kind == "content_block_start":
            expect(open_block is None, "a block begins inside another")
            open_block = dig(event, "index", int)
            expect(open_block == blocks, f"block {blocks} has the index {open_block}")
            blocks += 1
        elif kind in ("content_block_delta", "content_block_stop"):
            expect(open_block == dig(event, "index", int), f"{kind} of a block that is not open")
            text += (event.get("delta") or {}).get("text") or ""
            open_block = None if kind == "content_block_stop" else open_block
    expect(kinds[:1] == ["message_start"], f"the first event is {shown(kinds[:1])}")
    expect(kinds[-2:] == ["message_delta", "message_stop"], f"the last events are {shown(kinds[-2:])}")
    expect(open_block is None, "the last block is never closed")
    expect(text, "no text came")
    server.said.append(("text of a message", text))


@case("anthropic.tools", "Messages: a tool is used, and its result answered")
async def tools(server: Server) -> None:
    asked = [_user(QUESTION)]
    called = await _anthropic(server, asked, tools=[ANTHROPIC_TOOL])
    uses = [block for block in called["content"] if block["type"] == "tool_use"]
    if not uses:
        raise NotThere("the model answered without a call")
    expect(called.get("stop_reason") == "tool_use", f"stop_reason is {shown(called.get('stop_reason'))}")
    expect(isinstance(dig(uses[0], "input", dict), dict), "the input is no object")
    results = [{"type": "tool_result", "tool_use_id": dig(use, "id", str), "content": RESULT} for use in uses]
    messages = [*asked, {"role": "assistant", "content": called["content"]}, _user(results)]
    answer = await _anthropic(server, messages, tools=[ANTHROPIC_TOOL])
    text = "".join(block.get("text") or "" for block in answer["content"])
    expect("18" in text, f"the answer does not use the result: {shown(text)}")


@case("anthropic.count", "Messages: count_tokens counts what a message then uses")
async def count(server: Server) -> None:
    asked = {"model": server.model, "messages": [_user(SUM)]}
    counted = dig(
        found(await server.post(f"{MESSAGES}/count_tokens", asked), "Anthropic"), "input_tokens", int
    )
    used = (await _anthropic(server, [_user(SUM)])).get("usage") or {}
    whole = sum(
        used.get(name) or 0
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    expect(counted == whole, f"{counted} tokens are counted, {whole} used")


async def _ollama(server: Server, messages: list[Any], **fields: Any) -> dict[str, Any]:
    asked = {"model": server.model, "messages": messages, "stream": False, "options": {"temperature": 0}}
    body = found(await server.post(OLLAMA, asked | fields), "Ollama")
    server.said.append(("content of Ollama's", dig(body, "message.content", str)))
    return dict(body)


@case("ollama.tags", "Ollama: models are listed, and a version told")
async def tags(server: Server) -> None:
    body = found(await server.get("/api/tags"), "Ollama")
    for model in dig(body, "models", list):
        dig(model, "name", str)
    dig(found(await server.get("/api/version"), "Ollama"), "version", str)


@case("ollama.chat", "Ollama: chat, whole and as lines of JSON")
async def chat(server: Server) -> None:
    whole = await _ollama(server, [_user(SUM)])
    expect(whole.get("done") is True, "done is not true")
    asked = {"model": server.model, "messages": [_user(SUM)], "options": {"temperature": 0}}
    answer = await server.stream(OLLAMA, asked)
    if answer.status != 200:
        found(answer.whole, "Ollama")
    try:
        lines = [json.loads(data) for _, data in answer.events]
    except ValueError:
        raise Fault("a line is not JSON") from None
    expect(lines and lines[-1].get("done") is True, "the last line is not done")
    expect(not any(line.get("done") for line in lines[:-1]), "a line before the last is done")
    text = "".join(dig(line, "message.content", str) for line in lines)
    expect(
        text == whole["message"]["content"],
        f"whole {shown(whole['message']['content'])}, in lines {shown(text)}",
    )


@case("ollama.tools", "Ollama: a tool is called with an object, and its result answered")
async def ollama_tools(server: Server) -> None:
    asked = [_user(QUESTION)]
    called = (await _ollama(server, asked, tools=[WEATHER]))["message"]
    if not called.get("tool_calls"):
        raise NotThere("the model answered without a call")
    dig(called, "tool_calls.0.function.arguments", dict)
    result = {"role": "tool", "tool_name": "get_weather", "content": RESULT}
    answer = await _ollama(server, [*asked, called, result], tools=[WEATHER])
    text = answer["message"]["content"]
    expect("18" in text, f"the answer does not use the result: {shown(text)}")
