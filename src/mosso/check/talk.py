"""Chat completions as the cases use them: a question in, what was said out, streamed or not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from mosso.check.case import Fault, NotThere, dig, expect, shown
from mosso.check.server import Answer, Server, Stream

PATH = "/v1/chat/completions"
COLD = {"temperature": 0, "seed": 7}
REASONING = ("reasoning", "reasoning_content")  # the field has two names in the wild
SUM = "What is 12 + 30?"


@dataclass(frozen=True, slots=True)
class Call:
    id: str
    name: str
    arguments: str

    @property
    def values(self) -> dict[str, Any]:
        """The arguments as an object; Fault where they are none."""
        try:
            values = json.loads(self.arguments)
        except ValueError:
            raise Fault(f"the arguments of {self.name} are not JSON: {shown(self.arguments)}") from None
        expect(isinstance(values, dict), f"the arguments of {self.name} are no object: {shown(values)}")
        return dict(values)

    @property
    def json(self) -> dict[str, Any]:
        """As it stands in a message of the assistant's."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass(slots=True)
class Said:
    """One choice of an answer. `reasoning_field`: under which name the thinking came, "" where none did."""

    content: str = ""
    reasoning: str = ""
    reasoning_field: str = ""
    calls: list[Call] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, Any] | None = None
    body: dict[str, Any] = field(default_factory=dict)  # of an answer that was not streamed


def request(server: Server, question: str | list[Any], **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    return {"model": server.model, "messages": messages, **COLD, **fields}


async def ask(server: Server, question: str | list[Any], *, optional: str = "", **fields: Any) -> Said:
    """The answer to a question; `optional`: a field that the server may refuse by name."""
    answer = await server.post(PATH, request(server, question, **fields))
    return noted(server, said_by(successful(answer, optional)))


async def hear(server: Server, question: str | list[Any], *, optional: str = "", **fields: Any) -> Said:
    """The same, streamed and put together again."""
    stream = await server.stream(PATH, request(server, question, stream=True, **fields))
    successful(stream.whole, optional)
    return noted(server, joined(chunks_of(stream)))


def successful(answer: Answer, optional: str = "") -> Any:
    """The body of an answer with status 200; NotThere where an optional field is refused."""
    if 400 <= answer.status < 500 and optional and optional in answer.text:
        raise NotThere(f"{optional} is refused by name: {answer.complaint}")
    expect(answer.status == 200, f"a valid request is answered {answer.status}: {answer.complaint}")
    return answer.body


def said_by(body: Any) -> Said:
    """The first choice of a whole answer; Fault says where it has not the form."""
    message: dict[str, Any] = dig(body, "choices.0.message", dict)
    expect(isinstance(message.get("content"), str | None), f"content is {shown(message.get('content'))}")
    said = Said(content=message.get("content") or "", body=body, usage=body.get("usage"))
    said.finish = dig(body, "choices.0.finish_reason", str)
    said.reasoning, said.reasoning_field = _reasoning(message)
    for position, call in enumerate(message.get("tool_calls") or []):
        where = f"choices.0.message.tool_calls.{position}"
        expect(dig(call, "type") == "function", f"{where}.type is {shown(call['type'])}, not 'function'")
        parts = [dig(body, f"{where}.{path}", str) for path in ("id", "function.name", "function.arguments")]
        expect(parts[0], f"{where}.id is empty")
        said.calls.append(Call(*parts))
    return said


def _reasoning(part: dict[str, Any]) -> tuple[str, str]:
    found = [name for name in REASONING if part.get(name)]
    return (str(part[found[0]]), " and ".join(found)) if found else ("", "")


def chunks_of(stream: Stream) -> list[dict[str, Any]]:
    """The chunks before [DONE]; Fault where an event is no JSON object, or an error."""
    chunks = []
    for name, data in stream.events:
        if data == "[DONE]":
            break
        expect(name != "?", f"a line is not SSE: {shown(data)}")
        try:
            chunk = json.loads(data)
        except ValueError:
            raise Fault(f"an event is not JSON: {shown(data)}") from None
        expect(isinstance(chunk, dict), f"an event is no object: {shown(data)}")
        expect(not chunk.get("error"), f"the stream ends in an error: {shown(chunk.get('error'))}")
        chunks.append(chunk)
    return chunks


def joined(chunks: list[dict[str, Any]]) -> Said:
    """The first choice of a stream, as SDKs put it together."""
    said = Said()
    pieces: dict[int, list[str]] = {}
    for chunk in chunks:
        said.usage = chunk.get("usage") or said.usage
        for choice in dig(chunk, "choices", list):
            if choice.get("index", 0) != 0:
                continue
            delta = choice.get("delta") or {}
            said.content += delta.get("content") or ""
            more, name = _reasoning(delta)
            said.reasoning, said.reasoning_field = said.reasoning + more, name or said.reasoning_field
            said.finish = choice.get("finish_reason") or said.finish
            for piece in delta.get("tool_calls") or []:
                _add(pieces, piece)
    said.calls = [Call(*parts) for _, parts in sorted(pieces.items())]
    return said


def _add(pieces: dict[int, list[str]], piece: Any) -> None:
    index = dig(piece, "index", int)
    first = index not in pieces
    call = pieces.setdefault(index, ["", "", ""])
    function = piece.get("function") or {}
    if first:
        expect(piece.get("id"), "the first piece of a streamed call has no id")
        expect(function.get("name"), "the first piece of a streamed call has no function name")
    call[0] = piece.get("id") or call[0]
    call[1] += function.get("name") or ""
    call[2] += function.get("arguments") or ""


def noted(server: Server, said: Said) -> Said:
    """Keeps the texts for the cases that look at everything that was said."""
    texts = [("content", said.content), ("reasoning", said.reasoning)]
    for call in said.calls:
        texts += [("a function's name", call.name), ("arguments", call.arguments)]
    server.said += [(where, text) for where, text in texts if text]
    return said
