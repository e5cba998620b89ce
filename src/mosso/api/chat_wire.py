"""Deltas → the dialect's JSON: chunks of a stream, or the whole answer.

What does not change over a stream's life is encoded once; a chunk is bytes around one small object.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic_core import to_json

import mosso
from mosso.api.deltas import CallArguments, CallStarted, ContentText, Delta, Finished, ReasoningText
from mosso.api.settings import ReasoningFields
from mosso.api.tiers import ServedTier
from mosso.api.usage import Usage
from mosso.core.requests import TokenLogprob
from mosso.harmony.tokenizer import Tokenizer

FINGERPRINT = f"mosso-{mosso.__version__}"
LOWEST_LOGPROB = -9999.0  # stands for minus infinity, which JSON cannot say
_FIELDS: dict[ReasoningFields, tuple[str, ...]] = {
    "both": ("reasoning", "reasoning_content"),
    "reasoning": ("reasoning",),
    "reasoning_content": ("reasoning_content",),
    "none": (),
}


def reasoning_fields(fields: ReasoningFields, text: str) -> dict[str, str]:
    return dict.fromkeys(_FIELDS[fields], text)


def finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB) if logprob == logprob else LOWEST_LOGPROB


def token_entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    raw = tokenizer.token_bytes(token)
    text = tokenizer.decode([token], control=True)
    return {"token": text, "logprob": finite(logprob), "bytes": list(raw or text.encode())}


def logprob_entries(tokenizer: Tokenizer, entries: Iterable[TokenLogprob], top: int) -> list[dict[str, Any]]:
    """The `content` list of a choice's logprobs."""
    return [
        {
            **token_entry(tokenizer, entry.token, entry.logprob),
            "top_logprobs": [token_entry(tokenizer, *pair) for pair in entry.top[:top]],
        }
        for entry in entries
    ]


class ChunkWriter:
    """Encodes the chunks of one streamed answer. `top`: alternatives per token, None for no logprobs."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        id: str,  # noqa: A002
        created: int,
        model: str,
        fields: ReasoningFields,
        top: int | None,
        usage_field: bool,
        service_tier: ServedTier,
    ) -> None:
        head = {
            "id": id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "service_tier": service_tier,
            "system_fingerprint": FINGERPRINT,
        }
        self._head = to_json(head)[:-1]
        self._tail = b',"usage":null}' if usage_field else b"}"
        self._tokenizer = tokenizer
        self._fields = fields
        self._top = top

    def opening(self, choice: int) -> bytes:
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def delta(self, choice: int, delta: Delta, usage: Usage | None = None) -> bytes | None:
        """One chunk; None where the client is not shown this kind. `usage`: as of now, if wanted."""
        match delta:
            case ContentText():
                return self._chunk(choice, {"content": delta.text}, usage, logprobs=delta.logprobs)
            case ReasoningText():
                fields = reasoning_fields(self._fields, delta.text)
                return self._chunk(choice, fields, usage) if fields else None
            case CallStarted():
                function = {"name": delta.name, "arguments": ""}
                call = {"index": delta.index, "id": delta.id, "type": "function", "function": function}
                return self._chunk(choice, {"tool_calls": [call]}, usage)
            case CallArguments():
                piece = {"index": delta.index, "function": {"arguments": delta.text}}
                return self._chunk(choice, {"tool_calls": [piece]}, usage)
            case Finished():
                return self._chunk(choice, {}, usage, finish=delta.reason)

    def usage(self, usage: Usage) -> bytes:
        """The chunk after the last: no choices, only the counts."""
        return self._head + b',"choices":[],"usage":' + usage.model_dump_json().encode() + b"}"

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        usage: Usage | None = None,
        *,
        logprobs: list[TokenLogprob] | None = None,
        finish: str | None = None,
    ) -> bytes:
        body: dict[str, Any] = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}
        if logprobs and self._top is not None:
            body["logprobs"] = {
                "content": logprob_entries(self._tokenizer, logprobs, self._top),
                "refusal": None,
            }
        tail = self._tail if usage is None else b',"usage":' + usage.model_dump_json().encode() + b"}"
        return self._head + b',"choices":[' + to_json(body) + b"]" + tail


class ChoiceFold:
    """Adds up the deltas of one choice to its whole message."""

    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: list[tuple[CallStarted, list[str]]] = []
        self._logprobs: list[TokenLogprob] = []
        self._reason = "stop"

    def add(self, delta: Delta) -> None:
        match delta:
            case ContentText():
                self._content.append(delta.text)
                self._logprobs += delta.logprobs
            case ReasoningText():
                self._reasoning.append(delta.text)
            case CallStarted():
                self._calls.append((delta, []))
            case CallArguments():
                self._calls[delta.index][1].append(delta.text)
            case Finished():
                self._reason = delta.reason

    def choice(
        self, index: int, tokenizer: Tokenizer, fields: ReasoningFields, top: int | None
    ) -> dict[str, Any]:
        """The wire form of the choice."""
        content = "".join(self._content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content if content or not self._calls else None,
            "refusal": None,
        }
        if self._reasoning:
            message |= reasoning_fields(fields, "".join(self._reasoning))
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(arguments)},
                }
                for call, arguments in self._calls
            ]
        logprobs = None
        if top is not None:
            logprobs = {"content": logprob_entries(tokenizer, self._logprobs, top), "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self._reason}
