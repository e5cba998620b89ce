"""Ollama's chat over the generation of chat: the same prompt, the same deltas, one JSON object a line.

A call is sent whole, as Ollama does: its arguments are an object. With `think` false the thinking is hidden.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json

from mosso.api.caller import Caller
from mosso.api.chat import ChatJob, ChatService
from mosso.api.chat_schema import ChatRequest
from mosso.api.deltas import CallArguments, CallStarted, ContentText, Delta, Finished, ReasoningText
from mosso.api.generation import closing
from mosso.api.ollama_schema import OllamaChatRequest, OllamaMessage, OllamaOptions
from mosso.api.usage import Report, Usage
from mosso.core.errors import RequestError

_LATEST = ":latest"  # the tag that Ollama's clients add to a bare name


@dataclass(frozen=True, slots=True)
class OllamaJob:
    chat: ChatJob
    thinking: bool  # the client is shown it
    stream: bool


class OllamaService:
    """Everything /api/chat does, short of HTTP."""

    def __init__(self, chat: ChatService) -> None:
        self._chat = chat

    def prepare(self, body: OllamaChatRequest, caller: Caller) -> OllamaJob:
        """Translate `body`; RequestError says what is wrong with it. Any thread may do it."""
        chat = self._chat.prepare(_chat_request(body), caller)
        return OllamaJob(chat, body.think is not False, body.stream)

    async def stream(self, job: OllamaJob, report: Report) -> AsyncGenerator[list[bytes]]:
        """The answer's objects as JSON, in batches. Closing it aborts the request."""
        async with closing(self._objects(job, report)) as objects:
            async for batch in objects:
                yield [to_json(made) for made in batch]

    async def complete(self, job: OllamaJob, report: Report) -> bytes:
        """The whole answer as JSON: the last object, with the messages before it added up."""
        content, thinking, calls, last = "", "", [], {}
        async with closing(self._objects(job, report)) as objects:
            async for batch in objects:
                for last in batch:
                    content += last["message"]["content"]
                    thinking += last["message"].get("thinking", "")
                    calls += last["message"].get("tool_calls", [])
        message: dict[str, Any] = {"role": "assistant", "content": content}
        message |= {"thinking": thinking} if thinking else {}
        message |= {"tool_calls": calls} if calls else {}
        return to_json(last | {"message": message})

    async def _objects(self, job: OllamaJob, report: Report) -> AsyncGenerator[list[dict[str, Any]]]:
        writer = _Writer(job)
        async with closing(self._chat.deltas(job.chat, report)) as stream:
            async for deltas, usage in stream:
                batch = [made for delta in deltas for made in writer.objects(delta, usage)]
                if batch:
                    yield batch


class _Writer:
    def __init__(self, job: OllamaJob) -> None:
        self._job = job
        self._started = time.monotonic_ns()
        self._call: CallStarted | None = None
        self._arguments = ""

    def objects(self, delta: Delta, usage: Usage) -> Iterator[dict[str, Any]]:
        match delta:
            case CallArguments():
                self._arguments += delta.text
                return
            case _ if self._call is not None:
                yield self._object({"content": "", "tool_calls": [self._whole_call(self._call)]})
                self._call, self._arguments = None, ""
        match delta:
            case ReasoningText() if self._job.thinking:
                yield self._object({"content": "", "thinking": delta.text})
            case ContentText() if delta.text:
                yield self._object({"content": delta.text})
            case CallStarted():
                self._call = delta
            case Finished():
                yield self._object({"content": ""}) | self._ending(delta, usage)

    def _object(self, message: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        message = {"role": "assistant"} | message
        return {"model": self._job.chat.model, "created_at": now, "message": message, "done": False}

    def _whole_call(self, call: CallStarted) -> dict[str, Any]:
        try:
            value = from_json(self._arguments)
        except ValueError:
            value = None
        arguments = value if isinstance(value, dict) else {"arguments": self._arguments}
        function = {"index": call.index, "name": call.name, "arguments": arguments}
        return {"id": call.id, "function": function}

    def _ending(self, end: Finished, usage: Usage) -> dict[str, Any]:
        return {
            "done": True,
            "done_reason": "length" if end.reason == "length" else "stop",
            "total_duration": time.monotonic_ns() - self._started,
            "prompt_eval_count": usage.prompt_tokens,
            "eval_count": usage.completion_tokens,
        }


def _chat_request(body: OllamaChatRequest) -> ChatRequest:
    fields: dict[str, Any] = {"model": body.model.removesuffix(_LATEST), "stream": body.stream}
    fields["messages"] = list(_messages(body.messages))
    if body.tools:
        fields["tools"] = [tool.model_dump() for tool in body.tools]
    if isinstance(body.think, str):
        fields["reasoning_effort"] = body.think
    if body.format == "json":
        fields["response_format"] = {"type": "json_object"}
    elif body.format:
        schema = {"name": "answer", "schema": body.format}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    fields |= _options(body.options or OllamaOptions.model_validate({}))
    return ChatRequest.model_validate(fields)


def _options(options: OllamaOptions) -> dict[str, Any]:
    fields = options.model_dump(exclude_none=True, exclude={"num_predict", "num_ctx", "repeat_penalty"})
    if options.repeat_penalty is not None:
        fields["repetition_penalty"] = options.repeat_penalty
    if options.num_predict is not None and options.num_predict > 0:  # below: as much as there is room for
        fields["max_tokens"] = options.num_predict
    return fields


def _messages(messages: list[OllamaMessage]) -> Iterator[dict[str, Any]]:
    """A call without an id gets one from its place; results take the calls that wait, in order."""
    waiting: list[tuple[str, str]] = []  # (id, function)
    for position, message in enumerate(messages):
        if message.role == "tool":
            yield {"role": "tool", "tool_call_id": _answered(message, waiting, position),
                   "content": message.content}  # fmt: skip
            continue
        made: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.role == "assistant":
            calls = [
                (call.id or f"call_{position}_{n}", call) for n, call in enumerate(message.tool_calls or [])
            ]
            waiting += [(id, call.function.name) for id, call in calls]  # noqa: A001
            made |= {"reasoning": message.thinking} if message.thinking else {}
            if calls:
                made["tool_calls"] = [
                    {"id": id, "function": {"name": call.function.name,
                                            "arguments": json.dumps(call.function.arguments)}}
                    for id, call in calls  # noqa: A001
                ]  # fmt: skip
        yield made


def _answered(message: OllamaMessage, waiting: list[tuple[str, str]], position: int) -> str:
    for place, (call, name) in enumerate(waiting):
        if message.tool_call_id in (None, call) and message.tool_name in (None, name):
            del waiting[place]
            return call
    param = f"messages[{position}]"
    raise RequestError(f"{param}: no call before it waits for this tool's result.", param=param)
