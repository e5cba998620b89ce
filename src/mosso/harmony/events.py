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
    """How a malformed stream was mended. Values are metric labels. A header counts each kind at most once."""

    # Between messages
    MISSING_START = "missing_start"  # a header without `<|start|>` before it: the assistant's
    MISSING_END = "missing_end"  # `<|start|>` or `<|channel|>` inside content: the message ends there
    REPEATED_END = "repeated_end"  # an end token, and no message was open: skipped
    END_OF_TEXT = "end_of_text"  # `<|endoftext|>` ended a message: as if the stream had been cut
    # Headers without `<|message|>`
    MISSING_HEADER = "missing_header"  # text and no header at all: content of the final channel
    MISSING_MESSAGE = "missing_message"  # content starts where the header stops making sense as one
    EMPTY_MESSAGE = "empty_message"  # the message ended before it had content: only `raw` is left of it
    CUT_HEADER = "cut_header"  # the stream ended inside a header: only `raw` is left of it
    # Parts of headers
    UNKNOWN_ROLE = "unknown_role"  # no role, or one that is neither a role nor a tool: the assistant
    MISSING_CHANNEL = "missing_channel"  # the assistant named none: commentary for a call, else final
    UNMARKED_CHANNEL = "unmarked_channel"  # a channel's name without `<|channel|>`: taken as the channel
    UNKNOWN_CHANNEL = "unknown_channel"  # a known name inside it is taken, else as if missing
    REPEATED_CHANNEL = "repeated_channel"  # the last known one is taken
    UNMARKED_RECIPIENT = "unmarked_recipient"  # a name without `to=`: taken as the recipient
    BAD_RECIPIENT = "bad_recipient"  # cut to its legal start; dropped if that is empty, or no tool
    REPEATED_RECIPIENT = "repeated_recipient"  # two different ones: the last is taken
    BAD_CONSTRAINT = "bad_constraint"  # `<|constrain|>` without a type: ignored; repeated: the last is taken
    EXTRA_HEADER_TEXT = "extra_header_text"  # other words: left in the header's bytes
    # Tokens
    STRAY_CONTROL = "stray_control"  # a control token where it means nothing: skipped
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 - an id without a token: skipped


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """A header is complete (after repair). `header` is the header's raw bytes, control tokens excluded.

    `role` is as written: one of Role, one with a name ("user:zoë"), or the tool's name for a tool's result.
    """

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


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """A whole message, as MessageStarted describes it; `reason` tells how it ended."""

    role: str
    channel: str | None
    recipient: str | None
    content_type: str | None
    text: str
    reason: MessageEndReason


ParserEvent = MessageStarted | ContentDelta | MessageEnded | Repaired
