"""Mistakes of clients: each is told with a 4xx and an error object, and the server goes on."""

from __future__ import annotations

from mosso.check.case import case, dig, expect, shown
from mosso.check.server import Answer, Server
from mosso.check.talk import PATH, SUM, ask, request

TOO_MANY = 300_000  # words: more than any gpt-oss has room for


def refused(answer: Answer, what: str) -> None:
    expect(answer.status != 200, f"{what} is answered as if nothing were wrong")
    expect(400 <= answer.status < 500, f"{what} is answered {answer.status}: {answer.complaint}")
    expect(isinstance(answer.body, dict), f"{what}: the error is not JSON: {shown(answer.text)}")
    message = dig(answer.body, "error.message", str)
    expect(message.strip(), f"{what}: the error's message is empty")


@case("errors.json", "a body that is not JSON")
async def bad_json(server: Server) -> None:
    for body in ('{"model": ', "[]", "\x00"):
        refused(await server.post(PATH, body), f"the body {body!r}")


@case("errors.model", "a model that is not there")
async def model(server: Server) -> None:
    wrong = {**request(server, SUM), "model": "no-such-model-0"}
    refused(await server.post(PATH, wrong), "an unknown model")


@case("errors.types", "fields of the wrong type")
async def types(server: Server) -> None:
    wrong = {"messages": "hello", "temperature": "hot", "max_tokens": -1, "tools": {"name": "x"}}
    for name, value in wrong.items():
        refused(await server.post(PATH, request(server, SUM) | {name: value}), f"{name} {value!r}")


@case("errors.messages", "no messages, and a role that does not exist")
async def messages(server: Server) -> None:
    refused(await server.post(PATH, request(server, [])), "an empty list of messages")
    stranger = [{"role": "stranger", "content": "hello"}]
    refused(await server.post(PATH, request(server, stranger)), "the role 'stranger'")


@case("errors.context", "a prompt that is longer than the context, and is not cut in silence")
async def context(server: Server) -> None:
    refused(await server.post(PATH, request(server, "x " * TOO_MANY)), f"a prompt of {TOO_MANY:,} words")


@case("errors.stream", "a mistake in a streamed request is a 4xx, not a stream")
async def stream(server: Server) -> None:
    answer = await server.stream(PATH, request(server, SUM, stream=True) | {"temperature": "hot"})
    refused(answer.whole, "temperature 'hot' of a stream")


@case("errors.path", "a path that is not there is a 404")
async def path(server: Server) -> None:
    answer = await server.post("/v1/no-such-endpoint", {})
    expect(answer.status == 404, f"it is answered {answer.status}")


@case("errors.after", "after all this the server answers as before")
async def after(server: Server) -> None:
    expect((await ask(server, SUM)).content, "a sum gets no answer")
