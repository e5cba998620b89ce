"""Ollama's requests → the chat request or text completion that means the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mosso.api.chat_schema import ChatRequest
from mosso.api.completion_schema import CompletionRequest
from mosso.api.ollama_schema import (
    OllamaCall,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaMessage,
    OllamaOptions,
    OllamaRequest,
)
from mosso.core.errors import RequestError, UnsupportedError

_LATEST = ":latest"  # the tag that Ollama's clients add to a bare name
_SAME = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "stop")


def model_name(asked: str) -> str:
    return asked.removesuffix(_LATEST)


def chat_of(body: OllamaChatRequest) -> ChatRequest:
    """RequestError names what is wrong in the client's own terms."""
    fields = _shared(body) | _formed(body) | {"messages": list(_messages(body.messages))}
    if body.tools:
        fields["tools"] = [tool.model_dump() for tool in body.tools]
    return ChatRequest.model_validate(fields)


def generate_of(body: OllamaGenerateRequest) -> ChatRequest:
    """The prompt as a user's message."""
    system = [{"role": "system", "content": body.system}] if body.system else []
    messages = [*system, {"role": "user", "content": body.prompt}]
    return ChatRequest.model_validate(_shared(body) | _formed(body) | {"messages": messages})


def raw_of(body: OllamaGenerateRequest) -> CompletionRequest:
    """The prompt as raw text."""
    fields = _shared(body) | {"prompt": body.prompt}
    top = fields.pop("top_logprobs") or 0
    fields["logprobs"] = top if body.logprobs else None
    return CompletionRequest.model_validate(fields)


def check_generate(body: OllamaGenerateRequest) -> None:
    """RequestError names what is not supported, or does not go together."""
    if body.suffix:
        raise UnsupportedError(
            "suffix is not supported: gpt-oss was not trained to fill in the middle.", param="suffix"
        )
    if body.template:
        raise UnsupportedError(
            "template is not supported: gpt-oss has one, Harmony; raw takes a prompt as it is.",
            param="template",
        )
    _refuse_images(body.images, "images")
    for name in ("system", "context", "format", "think"):
        if body.raw and getattr(body, name):
            raise RequestError(f"{name} cannot go together with raw.", param=name)


def _refuse_images(images: list[Any] | None, param: str) -> None:
    if images:
        raise UnsupportedError(f"{param} is not supported: gpt-oss reads text only.", param=param)


def _shared(body: OllamaRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": model_name(body.model), "stream": body.stream}
    fields |= {"logprobs": body.logprobs, "top_logprobs": body.top_logprobs}
    return fields | _options(body.options or OllamaOptions.model_validate({}))


def _formed(body: OllamaRequest) -> dict[str, Any]:
    """The fields that only a chat has."""
    fields: dict[str, Any] = {}
    if isinstance(body.think, str):
        fields["reasoning_effort"] = body.think
    if body.format == "json":
        fields["response_format"] = {"type": "json_object"}
    elif body.format:
        schema = {"name": "answer", "schema": body.format}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _options(options: OllamaOptions) -> dict[str, Any]:
    given = options.model_dump(exclude_none=True)
    fields = {name: given[name] for name in _SAME if name in given}
    if "repeat_penalty" in given:
        fields["repetition_penalty"] = given["repeat_penalty"]
    if given.get("seed", -1) >= 0:
        fields["seed"] = given["seed"]
    if given.get("num_predict", 0) > 0:
        fields["max_tokens"] = given["num_predict"]
    return fields


def _messages(messages: list[OllamaMessage]) -> Iterator[dict[str, Any]]:
    """A call without an id gets one from its place; results take the calls that wait, in order."""
    waiting: list[tuple[str, str]] = []  # (id, function)
    for position, message in enumerate(messages):
        _refuse_images(message.images, f"messages[{position}].images")
        content = message.content or ""
        if message.role == "tool":
            yield {"role": "tool", "tool_call_id": _answered(message, waiting, position), "content": content}
        elif message.role == "assistant":
            calls = [
                (call.id or f"call_{position}_{number}", call)
                for number, call in enumerate(message.tool_calls or [])
            ]
            waiting += [(call_id, call.function.name) for call_id, call in calls]
            yield _assistant(content, message.thinking, calls)
        else:
            yield {"role": message.role, "content": content}


def _assistant(content: str, thinking: str | None, calls: list[tuple[str, OllamaCall]]) -> dict[str, Any]:
    made: dict[str, Any] = {"role": "assistant", "content": content}
    if thinking:
        made["reasoning"] = thinking
    if calls:
        made["tool_calls"] = [
            {
                "id": call_id,
                "function": {
                    "name": call.function.name,
                    "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                },
            }
            for call_id, call in calls
        ]
    return made


def _answered(message: OllamaMessage, waiting: list[tuple[str, str]], position: int) -> str:
    for place, (call, name) in enumerate(waiting):
        if message.tool_call_id in (None, call) and message.tool_name in (None, name):
            del waiting[place]
            return call
    param = f"messages[{position}]"
    raise RequestError(f"{param}: no call before it waits for this tool's result.", param=param)
