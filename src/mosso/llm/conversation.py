"""One turn of a conversation: the model speaks, calls functions, reads their results, speaks again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json

from mosso.api.caller import Caller
from mosso.api.chat import ChatService
from mosso.api.chat_schema import ChatRequest
from mosso.api.chat_wire import logprob_entries
from mosso.api.completion_schema import CompletionRequest
from mosso.api.completions import CompletionService
from mosso.api.deltas import CallArguments, CallStarted, ContentText, Delta, Finished, ReasoningText
from mosso.api.usage import TokenCounts, Usage
from mosso.api.wire import parse_request
from mosso.core.errors import RequestError, UsageError
from mosso.core.requests import TokenLogprob
from mosso.harmony.tokenizer import Tokenizer
from mosso.llm.answers import Answer, Call, Completion, Piece, Speed
from mosso.llm.functions import described, output_format

Message = dict[str, Any]
ROUNDS = 10
COMPLETION_TOKENS = 256
ME = Caller()
_NOT_OPTIONS = frozenset({"messages", "prompt", "stream", "stream_options", "n", "model"})


@dataclass
class _Round:
    """What the model said between two results."""

    text: str = ""
    thinking: str = ""
    calls: list[Call] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str = ""
    usage: Usage = field(default_factory=lambda: TokenCounts().usage())  # so far

    def add(self, delta: Delta) -> Piece | None:
        match delta:
            case ContentText():
                self.text += delta.text
                self.logprobs += delta.logprobs
                return Piece("text", delta.text)
            case ReasoningText():
                self.thinking += delta.text
                return Piece("thinking", delta.text)
            case CallStarted():
                self.calls.append(Call(delta.id, delta.name, ""))
                self.arguments.append("")
                return Piece("call", "", delta.name)
            case CallArguments():
                self.arguments[delta.index] += delta.text
                return Piece("call", delta.text, self.calls[delta.index].name)
            case Finished():
                self.finish = delta.reason
                return None


class ChatTurn:
    """Made with the options of LLM.chat; run once, by `answered` or by `pieces`. Then `answer` is there."""

    def __init__(
        self, service: ChatService, tokenizer: Tokenizer, messages: list[Message], options: dict[str, Any]
    ) -> None:
        """UsageError or RequestError names the option that is wrong."""
        options = {name: value for name, value in options.items() if value is not None}
        self._service = service
        self._tokenizer = tokenizer
        self._messages = messages
        self._rounds = options.pop("max_rounds", ROUNDS)
        tools = options.pop("tools", ())
        kind = options.pop("output_type", None)
        if isinstance(logprobs := options.get("logprobs"), int) and not isinstance(logprobs, bool):
            options |= {"logprobs": True, "top_logprobs": logprobs}
        _check(options)
        if not isinstance(self._rounds, int) or self._rounds < 1:
            raise UsageError(f"max_rounds must be at least 1; it is {self._rounds!r}")
        self._fields = options
        descriptions, self._functions = described(tools)
        if descriptions:
            self._fields["tools"] = descriptions
        self._adapter = None
        if kind is not None:
            if "response_format" in options:
                raise UsageError("output_type and response_format mean the same; give one of them")
            self._adapter, self._fields["response_format"] = output_format(kind)
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        if self._answer is None:
            raise UsageError("the answer is not there yet: the stream has not ended")
        return self._answer

    async def answered(self) -> Answer:
        async with aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass
        return self.answer

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The turn as it comes. Closing it ends the model's work."""
        begin, first, generated = time.perf_counter(), 0.0, 0
        messages, thinking, calls = list(self._messages), [], []
        for number in range(self._rounds):
            made = _Round()
            async for delta, made.usage in self._said(messages):
                first = first or time.perf_counter() - begin
                piece = made.add(delta)
                if piece is not None:
                    yield piece
            generated += made.usage.completion_tokens
            if made.thinking:
                thinking.append(made.thinking)
            waiting = [self._written(made, i) for i in range(len(made.calls))]
            messages.append(_as_message(made, waiting))
            last = number + 1 == self._rounds or not self._may_run(waiting)
            if last:
                calls += waiting
                break
            done = await asyncio.gather(*(self._run(call) for call in waiting))
            calls += done
            for call in done:
                assert call.result is not None
                messages.append({"role": "tool", "tool_call_id": call.id, "content": call.result})
                yield Piece("result", call.result, call.name)
        seconds = time.perf_counter() - begin
        self._answer = Answer(
            text=made.text,
            thinking="\n\n".join(thinking),
            calls=tuple(calls),
            finish_reason=made.finish,
            usage=made.usage,
            speed=Speed(first, seconds, generated),
            messages=messages,
            logprobs=self._logprobs(made),
            parsed=self._parsed(made),
        )

    async def _said(self, messages: list[Message]) -> AsyncGenerator[tuple[Delta, Usage]]:
        body = _as_json({"messages": messages, **self._fields})
        request = await asyncio.to_thread(parse_request, ChatRequest, body)
        job = await asyncio.to_thread(self._service.prepare, request, ME)
        async with aclosing(self._service.deltas(job, lambda usage: None)) as batches:
            async for deltas, usage in batches:
                for delta in deltas:
                    yield delta, usage

    @staticmethod
    def _written(made: _Round, index: int) -> Call:
        call = made.calls[index]
        return Call(call.id, call.name, made.arguments[index])

    def _may_run(self, calls: Sequence[Call]) -> bool:
        """Whether every call is answered here: a conversation with half of the results cannot go on."""
        return bool(calls) and not any(
            call.name not in self._functions and call.name in self._described_only for call in calls
        )

    @property
    def _described_only(self) -> set[str]:
        names = {tool["function"]["name"] for tool in self._fields.get("tools", ())}
        return names - self._functions.keys()

    async def _run(self, call: Call) -> Call:
        function = self._functions.get(call.name)
        if function is None:
            result = json.dumps({"error": f"there is no function {call.name}"})
        else:
            result = await function(call.arguments)
        return Call(call.id, call.name, call.arguments, result)

    def _logprobs(self, made: _Round) -> list[dict[str, Any]] | None:
        if not self._fields.get("logprobs"):
            return None
        return logprob_entries(self._tokenizer, made.logprobs, self._fields.get("top_logprobs", 0))

    def _parsed(self, made: _Round) -> Any:
        """None where the answer is not whole: finish_reason says why."""
        if self._adapter is None or made.finish != "stop":
            return None
        try:
            return self._adapter.validate_json(made.text)
        except ValidationError as error:  # a rule of the type that its schema does not say
            raise RequestError(
                f"the answer is not of the output_type: {error}", param="output_type"
            ) from None


def messages_of(messages: Any) -> list[Message]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, Sequence) and messages and all(isinstance(one, dict) for one in messages):
        return list(messages)
    raise UsageError(
        "messages: give a string, or a list of messages such as {'role': 'user', 'content': ...}"
    )


async def completed(service: CompletionService, prompt: str, options: dict[str, Any]) -> Completion:
    """One prompt continued."""
    _check(options)
    begin = time.perf_counter()
    given = {name: value for name, value in options.items() if value is not None}
    body = _as_json({"max_tokens": COMPLETION_TOKENS, **given, "prompt": prompt})
    request = await asyncio.to_thread(parse_request, CompletionRequest, body)
    job = await asyncio.to_thread(service.prepare, request, ME)
    first = 0.0
    text, finish, usage = "", "", None
    async with aclosing(service.pieces(job, lambda usage: None)) as batches:
        async for pieces, usage in batches:  # noqa: B007 - the last usage is used
            first = first or time.perf_counter() - begin
            for piece in pieces:
                text, finish = text + piece.text, piece.finish or finish
    assert usage is not None
    speed = Speed(first, time.perf_counter() - begin, usage.completion_tokens)
    return Completion(text, finish, usage, speed)


def _as_message(made: _Round, calls: Sequence[Call]) -> Message:
    message: Message = {"role": "assistant", "content": made.text}
    if made.thinking:
        message["reasoning"] = made.thinking
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message


def _as_json(body: dict[str, Any]) -> bytes:
    try:
        return to_json(body)
    except PydanticSerializationError as error:  # an object of no such type, half of a surrogate pair
        raise UsageError(f"what was given cannot be written as JSON: {error}") from None


def _check(options: dict[str, Any]) -> None:
    for name in options:
        if name in _NOT_OPTIONS:
            raise UsageError(f"{name} cannot be an option here")
