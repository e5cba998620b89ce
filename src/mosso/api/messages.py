"""Anthropic's Messages over the generation of chat: the same prompt, the same deltas, other events.

One writer makes the events of a stream; the whole answer is the fold of the same deltas into blocks. A block
is open until a delta of another kind comes, or another call.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from mosso.api.caller import Caller
from mosso.api.chat import ChatJob, ChatService
from mosso.api.deltas import CallArguments, CallStarted, ContentText, Delta, Finished, ReasoningText
from mosso.api.generation import closing
from mosso.api.messages_prompt import chat_request
from mosso.api.messages_schema import (
    CountTokensRequest,
    MessageObject,
    MessagesError,
    MessagesErrorDetail,
    MessagesRequest,
    MessagesUsage,
    TokenCount,
)
from mosso.api.running import ThinkingEnded
from mosso.api.usage import Report, Usage

PATH = "/v1/messages"
PING_SECONDS = 5.0  # of thinking that is not shown: clients take a silent stream for a dead one
SIGNATURE = "mosso"  # clients want one on a thinking block; nothing is proved by it
_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def is_messages_path(path: str) -> bool:
    """Whether Anthropic's dialect is spoken there."""
    return path == PATH or path.startswith(PATH + "/")


def anthropic_error(status: int, message: str) -> bytes:
    """An error as this dialect's clients read it."""
    kind = _ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return to_json(MessagesError(error=MessagesErrorDetail(type=kind, message=message)))


@dataclass(frozen=True, slots=True)
class MessagesJob:
    """A translated request; `thinking`: the client is shown the thinking."""

    chat: ChatJob
    thinking: bool

    @property
    def id(self) -> str:
        return "msg_" + self.chat.id.partition("-")[2]

    @property
    def stream(self) -> bool:
        return self.chat.stream

    def shows(self, delta: Delta) -> bool:
        return self.thinking or not isinstance(delta, ReasoningText)


class MessagesService:
    """Everything /v1/messages does, short of HTTP."""

    def __init__(self, chat: ChatService) -> None:
        self._chat = chat

    def prepare(self, body: MessagesRequest, caller: Caller) -> MessagesJob:
        """Translate `body`; RequestError says what is wrong with it. Any thread may do it."""
        thinking = body.thinking
        shown = thinking is not None and thinking.type != "disabled" and thinking.display != "omitted"
        return MessagesJob(self._chat.prepare(chat_request(body), caller), shown)

    def count(self, body: CountTokensRequest, caller: Caller) -> TokenCount:
        """What the prompt of `body` would take. Any thread may do it."""
        return TokenCount(input_tokens=self._chat.counted(chat_request(body), caller))

    async def end_thinking(self, scope: str, message_id: str) -> ThinkingEnded:
        """See Running.end_thinking."""
        own = "chatcmpl-" + message_id.removeprefix("msg_")
        return await self._chat.running.end_thinking(scope, own, message_id)

    async def complete(self, job: MessagesJob, report: Report) -> bytes:
        """The whole answer as JSON."""
        blocks: list[dict[str, Any]] = []
        end, usage = Finished("stop"), None
        async with closing(self._chat.deltas(job.chat, report)) as stream:
            async for deltas, usage in stream:  # noqa: B007 - the last one counts
                for delta in filter(job.shows, deltas):
                    if isinstance(delta, Finished):
                        end = delta
                    else:
                        _fold(blocks, delta)
        assert usage is not None, "a stream that ends well has had a last delta"
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = _arguments(block["input"])
        return to_json(_message(job, _usage(usage), blocks, end))

    async def stream(self, job: MessagesJob, report: Report) -> AsyncGenerator[list[bytes]]:
        """The events as JSON, in batches that belong together. Closing it aborts the request."""
        writer: EventWriter | None = None
        told = time.monotonic()
        async with closing(self._chat.deltas(job.chat, report)) as stream:
            async for deltas, usage in stream:
                batch = []
                if writer is None:
                    writer = EventWriter()
                    opening = _usage(usage).model_copy(update={"output_tokens": 0})
                    batch = [{"type": "message_start", "message": _message(job, opening, [], None)}]
                for delta in filter(job.shows, deltas):
                    batch.extend(writer.events(delta, usage))
                if not batch and time.monotonic() - told > PING_SECONDS:
                    batch = [{"type": "ping"}]
                if batch:
                    told = time.monotonic()
                    yield [to_json(event) for event in batch]


class EventWriter:
    """Deltas → the events between message_start and the end; numbers the blocks."""

    def __init__(self) -> None:
        self._index = -1
        self._open = ""  # the type of the open block

    def events(self, delta: Delta, usage: Usage) -> Iterator[dict[str, Any]]:
        match delta:
            case ReasoningText():
                yield from self._within({"type": "thinking", "thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": delta.text})
            case ContentText():
                if delta.text:
                    yield from self._within({"type": "text", "text": ""})
                    yield self._delta({"type": "text_delta", "text": delta.text})
            case CallStarted():
                yield from self._close()
                block = {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}}
                yield from self._within(block)
            case CallArguments():
                yield self._delta({"type": "input_json_delta", "partial_json": delta.text})
            case Finished():
                yield from self._close()
                yield {"type": "message_delta", "delta": _ending(delta), "usage": _usage(usage)}
                yield {"type": "message_stop"}

    def _within(self, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._open == block["type"]:
            return
        yield from self._close()
        self._index += 1
        self._open = block["type"]
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        if self._open:
            yield {"type": "content_block_stop", "index": self._index}
        self._open = ""


def _fold(blocks: list[dict[str, Any]], delta: Delta) -> None:
    """A call's `input` is its arguments' text until the answer is whole."""
    last = blocks[-1] if blocks else {"type": ""}
    match delta:
        case ReasoningText():
            if last["type"] != "thinking":
                last = {"type": "thinking", "thinking": "", "signature": SIGNATURE}
                blocks.append(last)
            last["thinking"] += delta.text
        case ContentText() if delta.text:
            if last["type"] != "text":
                last = {"type": "text", "text": ""}
                blocks.append(last)
            last["text"] += delta.text
        case CallStarted():
            blocks.append({"type": "tool_use", "id": delta.id, "name": delta.name, "input": ""})
        case CallArguments():
            last["input"] += delta.text


def _arguments(text: str) -> dict[str, Any]:
    """The dialect wants an object; what the model wrote instead of one is kept as text."""
    try:
        value = from_json(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"arguments": text}


def _message(
    job: MessagesJob, usage: MessagesUsage, content: list[dict[str, Any]], end: Finished | None
) -> MessageObject:
    ending = {"stop_reason": None, "stop_sequence": None} if end is None else _ending(end)
    return MessageObject.model_validate(
        {"id": job.id, "model": job.chat.model, "content": content, "usage": usage, **ending}
    )


def _ending(end: Finished) -> dict[str, Any]:
    reason = "stop_sequence" if end.stop else _REASONS[end.reason]
    return {"stop_reason": reason, "stop_sequence": end.stop or None}


def _usage(usage: Usage) -> MessagesUsage:
    cached = usage.prompt_tokens_details.cached_tokens
    return MessagesUsage(
        input_tokens=usage.prompt_tokens - cached,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
    )
