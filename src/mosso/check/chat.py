"""Models and whole chat answers: their shape, their ends, and the fields that shape them."""

from __future__ import annotations

import json

from jsonschema import Draft202012Validator

from mosso.check.case import NotThere, case, dig, expect, shown
from mosso.check.server import Server
from mosso.check.talk import PATH, SUM, ask, noted, request, said_by, successful

FINISHES = ("stop", "length", "tool_calls", "content_filter", "function_call")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
MIA = "Mia is 31 years old. Give her name and age as JSON."


@case("models.list", "GET /v1/models lists models with ids, the examined one among them")
async def listed(server: Server) -> None:
    body = successful(await server.get("/v1/models"))
    expect(dig(body, "object") == "list", f"object is {shown(body['object'])}, not 'list'")
    models = dig(body, "data", list)
    ids = [dig(model, "id", str) for model in models]
    expect(ids, "no model is listed")
    expect(server.model in ids, f"{server.model} is not among {shown(ids)}")


@case("chat.shape", "a chat completion has the published form")
async def shape(server: Server) -> None:
    said = await ask(server, SUM)
    expect(dig(said.body, "id", str), "id is empty")
    expect(said.body.get("object") == "chat.completion", f"object is {shown(said.body.get('object'))}")
    dig(said.body, "created", int)
    dig(said.body, "model", str)
    expect(dig(said.body, "choices.0.index", int) == 0, "the first choice has not index 0")
    role = dig(said.body, "choices.0.message.role", str)
    expect(role == "assistant", f"the role is {shown(role)}")
    expect(said.content, "the answer to a sum has no content")


@case("chat.usage", "tokens are counted, and the counts fit together")
async def usage(server: Server) -> None:
    counts = dig((await ask(server, SUM)).body, "usage", dict)
    prompt, completion = dig(counts, "prompt_tokens", int), dig(counts, "completion_tokens", int)
    expect(prompt > 0 and completion > 0, f"{prompt} prompt tokens and {completion} of the answer")
    total = dig(counts, "total_tokens", int)
    expect(total == prompt + completion, f"total_tokens is {total}, not {prompt} + {completion}")
    thought = (counts.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    expect(thought <= completion, f"{thought} tokens of thinking in {completion} of the answer")
    cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    expect(cached <= prompt, f"{cached} cached tokens in {prompt} of the prompt")


@case("chat.finish", "finish_reason is stop where the model ended")
async def finish(server: Server) -> None:
    said = await ask(server, SUM)
    expect(said.finish == "stop", f"finish_reason is {shown(said.finish)}")


@case("chat.max_tokens", "max_tokens ends the answer, and finish_reason is length")
async def max_tokens(server: Server) -> None:
    said = await ask(server, "Count from 1 to 50.", max_tokens=3)
    expect(said.finish == "length", f"finish_reason is {shown(said.finish)} after max_tokens 3")
    made = dig(said.body, "usage.completion_tokens", int)
    expect(made <= 3, f"{made} tokens were made where 3 were allowed")


@case("chat.stop", "a stop string ends the answer and is not in it")
async def stop(server: Server) -> None:
    whole = (await ask(server, SUM)).content
    middle = len(whole) // 2
    text = whole[middle : middle + 2].strip()
    if not text:
        raise NotThere("the answer to a sum is too short to be stopped")
    said = await ask(server, SUM, stop=[text])
    expect(text not in said.content, f"the stop string {text!r} is in the answer {shown(said.content)}")
    expect(said.finish == "stop", f"finish_reason is {shown(said.finish)}")


@case("chat.n", "n makes that many choices, numbered")
async def n(server: Server) -> None:
    said = await ask(server, SUM, n=2, optional="n", temperature=1)
    indices = sorted(dig(choice, "index", int) for choice in dig(said.body, "choices", list))
    expect(indices == [0, 1], f"n=2 gives the choices {indices}")


@case("chat.logprobs", "log probabilities are at most 0 and cover the answer")
async def logprobs(server: Server) -> None:
    said = await ask(server, SUM, logprobs=True, top_logprobs=2, optional="logprobs")
    given = dig(said.body, "choices.0", dict).get("logprobs")
    expect(given, "logprobs were asked for and none came")
    entries = dig(given, "content", list)
    for entry in entries:
        chance = dig(entry, "logprob", float)
        expect(chance <= 0, f"a log probability is {chance}")
        expect(len(dig(entry, "top_logprobs", list)) <= 2, "more top_logprobs than asked for")
    text = "".join(dig(entry, "token", str) for entry in entries)
    expect(
        said.content.strip() in text, f"their tokens spell {shown(text)}, the answer is {shown(said.content)}"
    )


@case("chat.seed", "temperature 0 and a seed give the same answer twice")
async def seed(server: Server) -> None:
    first, second = await ask(server, SUM), await ask(server, SUM)
    expect(first.content == second.content, f"{shown(first.content)}, then {shown(second.content)}")


@case("chat.json_schema", "response_format json_schema is obeyed")
async def json_schema(server: Server) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    said = await ask(server, MIA, response_format=form, optional="response_format")
    try:
        value = json.loads(said.content)
    except ValueError:
        value = None
    fits = Draft202012Validator(PERSON).is_valid(value)
    expect(fits, f"the answer is not of the schema: {shown(said.content)}")


@case("chat.json_object", "response_format json_object gives an object")
async def json_object(server: Server) -> None:
    said = await ask(server, MIA, response_format={"type": "json_object"}, optional="response_format")
    try:
        value = json.loads(said.content)
    except ValueError:
        value = None
    expect(isinstance(value, dict), f"the answer is no JSON object: {shown(said.content)}")


@case("chat.roles", "system, developer and earlier turns are taken")
async def roles(server: Server) -> None:
    for role in ("system", "developer"):
        messages = [
            {"role": role, "content": "Be brief."},
            {"role": "user", "content": "What is 120 + 5?"},
            {"role": "assistant", "content": "120 + 5 = 125."},
            {"role": "user", "content": [{"type": "text", "text": "Now double it."}]},
        ]
        body = successful(await server.post(PATH, request(server, messages)), role)
        expect(noted(server, said_by(body)).content, f"no answer to a conversation with a {role} message")
