"""What a call of `LLM` gives back. Values; they know how to show themselves in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from mosso.api.usage import Usage

PieceKind = Literal["thinking", "text", "call", "result"]


@dataclass(frozen=True, slots=True)
class Piece:
    """News of a stream. `call`: the model calls the function `name`, arguments to come as text; `result`:
    what the function `name` returned."""

    kind: PieceKind
    text: str
    name: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds are as the caller saw them, the time of its own functions included."""

    first_token_seconds: float
    seconds: float
    tokens: int  # generated

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first."""
        generating = self.seconds - self.first_token_seconds
        return (self.tokens - 1) / generating if generating > 0 and self.tokens > 1 else 0.0

    def __str__(self) -> str:
        rate = f", {self.tokens_per_second:,.0f} tokens/s" if self.tokens_per_second else ""
        return f"{self.tokens} tokens, first after {self.first_token_seconds * 1000:,.0f} ms{rate}"


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the model called. `result` is None where nobody answered it: the function was given
    as a description only."""

    id: str
    name: str
    arguments: str  # JSON, as the model wrote it
    result: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One turn of the model, with the calls that led to it."""

    text: str
    thinking: str
    calls: tuple[Call, ...]
    finish_reason: str  # stop, length, or tool_calls where calls wait for an answer
    usage: Usage  # of the last round: its prompt holds the rounds before
    speed: Speed
    messages: list[dict[str, Any]]  # the whole conversation, this turn included: extend it to go on
    logprobs: list[dict[str, Any]] | None = None
    parsed: Any = None  # of the type that was asked for

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """Text only, escaped: what the model writes can neither run nor load anything."""
        parts = []
        if self.thinking:
            parts.append(_folded("Thinking", self.thinking))
        for call in self.calls:
            result = "" if call.result is None else f"\n→ {call.result}"
            parts.append(_folded(f"{call.name}(…)", call.arguments + result))
        parts.append(_preserved(self.text))
        parts.append(f'<small style="opacity:.6">{escape(str(self.speed))}</small>')
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Completion:
    """A continuation of raw text."""

    text: str
    finish_reason: str
    usage: Usage
    speed: Speed

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'{_preserved(self.text)}<small style="opacity:.6">{escape(str(self.speed))}</small>'


def _preserved(text: str) -> str:
    return f'<div style="white-space:pre-wrap">{escape(text)}</div>'


def _folded(title: str, text: str) -> str:
    style = "white-space:pre-wrap;opacity:.75"
    return f'<details><summary>{escape(title)}</summary><div style="{style}">{escape(text)}</div></details>'
