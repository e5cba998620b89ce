"""What the parser yields. Joined in order, the events hold every byte that was fed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MessageEndReason(StrEnum):
    END = "end"  # <|end|>: more messages may follow
    RETURN = "return"  # <|return|>: the turn is over
    CALL = "call"  # <|call|>: a tool is called, its result is awaited
    CUT = "cut"  # the stream ended, or a new message began, before the message did


class RepairKind(StrEnum):
    """How a malformed stream was mended. Values are metric labels; the parser's module docs define each."""


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """A header is complete (after repair). `header` is the header's raw bytes, control tokens excluded."""

    role: str
    channel: str | None
    recipient: str | None
    content_type: str | None
    header: bytes = b""


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Content of the open message: `raw` is exactly the fed tokens' bytes, `text` their decoded form.

    A character split over tokens is held back until it is whole; invalid UTF-8 decodes to U+FFFD in `text`.
    """

    text: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class MessageEnded:
    reason: MessageEndReason


@dataclass(frozen=True, slots=True)
class Repaired:
    """A malformation was mended; counted in the metrics. `raw` holds bytes that fit nowhere else."""

    kind: RepairKind
    raw: bytes = b""


ParserEvent = MessageStarted | ContentDelta | MessageEnded | Repaired
