"""Token ids → messages, one token at a time, whatever the tokens are.

The parser is total: it raises nothing for any sequence of ids, and the events of a whole stream, joined in
order (headers, content, and the raw bytes of repairs), hold every byte that was fed. Control tokens and ids
without a token have no bytes. Malformations are mended as RepairKind defines, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from mosso.harmony.conversation import Role
from mosso.harmony.events import (
    ContentDelta,
    MessageEnded,
    MessageEndReason,
    MessageStarted,
    ParsedMessage,
    ParserEvent,
    Repaired,
    RepairKind,
)
from mosso.harmony.header import Header, Part, Segment, read_header, read_open_header
from mosso.harmony.tokenizer import Tokenizer
from mosso.harmony.utf8 import Utf8Stream

# A header longer than this is content that nobody announced. Legal ones have four words, and a name of 64
# characters; the limits keep unannounced content from being held back for long.
MAX_HEADER_WORDS = 8
MAX_HEADER_BYTES = 1024


class StreamParser:
    """Parses one stream. States: between messages, in a header (`_segments`), in content (`_in_content`).

    `role`: whose header the stream continues, "assistant" for what follows a prompt that ends in
    `<|start|>assistant`; None for a stream that starts with `<|start|>`, or anywhere.
    """

    def __init__(self, tokenizer: Tokenizer, *, role: str | None = Role.ASSISTANT) -> None:
        control = tokenizer.control
        self.repairs: Counter[RepairKind] = Counter()
        self._tokenizer = tokenizer
        self._control = control
        self._ends = {
            control.end: MessageEndReason.END,
            control.return_: MessageEndReason.RETURN,
            control.call: MessageEndReason.CALL,
            control.endoftext: MessageEndReason.CUT,
        }
        self._parts = {control.channel: Part.CHANNEL, control.constrain: Part.CONSTRAINT}
        self._utf8 = Utf8Stream()
        self._in_content = False
        self._segments: list[Segment] = []  # empty: not in a header
        self._role: str | None = None  # of the header, where known before it is read
        self._started = True  # whether `<|start|>` opened the header
        if role is not None:
            self._open_header(role)

    def feed(self, token: int) -> list[ParserEvent]:
        """What one more token gives; often nothing while a header or a character is incomplete."""
        if self._tokenizer.is_control(token):
            return list(self._control_token(token))
        raw = self._tokenizer.token_bytes(token)
        if not raw:
            return [self._repair(RepairKind.UNKNOWN_TOKEN)]
        return list(self._content(raw) if self._in_content else self._header_text(raw))

    def finish(self) -> list[ParserEvent]:
        """The stream is over: what was held back, and the end of a message still open."""
        return list(self._finish())

    def _control_token(self, token: int) -> Iterator[ParserEvent]:
        if token in self._ends:
            yield from self._end_token(token)
        elif token == self._control.start:
            yield from self._start_token()
        elif token == self._control.message and not self._in_content:
            yield from self._message_token()
        elif token == self._control.channel and self._in_content:
            yield from self._end(MessageEndReason.CUT)
            yield self._repair(RepairKind.MISSING_END)
            self._open_header(Role.ASSISTANT)
            self._segments.append(Segment(Part.CHANNEL))
        elif token in self._parts and not self._in_content:
            self._need_header()
            self._segments.append(Segment(self._parts[token]))
        else:
            yield self._repair(RepairKind.STRAY_CONTROL)

    def _end_token(self, token: int) -> Iterator[ParserEvent]:
        reason = self._ends[token]
        if self._segments:
            yield from self._abandon_header(reason)
        elif self._in_content:
            if token == self._control.endoftext:
                yield self._repair(RepairKind.END_OF_TEXT)
            yield from self._end(reason)
        else:
            yield self._repair(RepairKind.REPEATED_END)

    def _start_token(self) -> Iterator[ParserEvent]:
        if self._in_content:
            yield from self._end(MessageEndReason.CUT)
            yield self._repair(RepairKind.MISSING_END)
        elif self._segments:
            yield from self._abandon_header(MessageEndReason.CUT)
        self._open_header(None)

    def _message_token(self) -> Iterator[ParserEvent]:
        self._need_header()
        yield from self._start_message(read_header(self._segments, self._role))

    def _header_text(self, raw: bytes) -> Iterator[ParserEvent]:
        self._need_header()
        self._segments[-1].text += raw
        text = self._header_bytes()
        if b"{" in raw or len(text) > MAX_HEADER_BYTES or len(text.split()) > MAX_HEADER_WORDS:
            yield from self._start_message(read_open_header(self._segments, self._role))

    def _open_header(self, role: str | None, *, started: bool = True) -> None:
        self._segments = [Segment(Part.AUTHOR)]
        self._role = role
        self._started = started

    def _need_header(self) -> None:
        """Between messages, whatever comes opens a header of the assistant's."""
        if not self._segments:
            self._open_header(Role.ASSISTANT, started=False)

    def _header_bytes(self) -> bytes:
        return b"".join(segment.text for segment in self._segments)

    def _start_message(self, header: Header) -> Iterator[ParserEvent]:
        """Announce the message; bytes of the header that are content already follow at once."""
        if not self._started and RepairKind.MISSING_HEADER not in header.repairs:
            yield self._repair(RepairKind.MISSING_START)
        for kind in header.repairs:
            yield self._repair(kind)
        raw = self._header_bytes()
        yield MessageStarted(
            header.role, header.channel, header.recipient, header.content_type, raw[: header.size]
        )
        self._segments = []
        self._in_content = True
        yield from self._content(raw[header.size :])

    def _abandon_header(self, reason: MessageEndReason) -> Iterator[ParserEvent]:
        """A header ended without `<|message|>`: keep the message if it has content or is a call."""
        header = read_open_header(self._segments, self._role)
        raw = self._header_bytes()
        is_call = header.recipient is not None and reason is not MessageEndReason.CUT
        if raw[header.size :].strip() or is_call:
            yield from self._start_message(header)
            yield from self._end(reason)
        else:
            self._segments = []
            yield self._repair(RepairKind.EMPTY_MESSAGE, raw)

    def _content(self, raw: bytes) -> Iterator[ParserEvent]:
        text, whole = self._utf8.feed(raw)
        if whole:
            yield ContentDelta(text, whole)

    def _end(self, reason: MessageEndReason) -> Iterator[ParserEvent]:
        text, raw = self._utf8.flush()
        if raw:
            yield ContentDelta(text, raw)
        self._in_content = False
        yield MessageEnded(reason)

    def _finish(self) -> Iterator[ParserEvent]:
        if self._in_content:
            yield from self._end(MessageEndReason.CUT)
            return
        if not self._segments:
            return
        header = read_open_header(self._segments, self._role)
        raw = self._header_bytes()
        marked = len(self._segments) > 1 or self._role is None
        if not marked and raw[header.size :].strip():
            yield from self._start_message(header)
            yield from self._end(MessageEndReason.CUT)
        elif marked or raw:
            yield self._repair(RepairKind.CUT_HEADER, raw)
        self._segments = []

    def _repair(self, kind: RepairKind, raw: bytes = b"") -> Repaired:
        self.repairs[kind] += 1
        return Repaired(kind, raw)


def parse(
    tokenizer: Tokenizer, tokens: Iterable[int], *, role: str | None = Role.ASSISTANT
) -> list[ParsedMessage]:
    """The messages of a whole stream; `role` as for StreamParser."""
    parser = StreamParser(tokenizer, role=role)
    events = [event for token in tokens for event in parser.feed(token)]
    messages: list[ParsedMessage] = []
    for event in [*events, *parser.finish()]:
        if isinstance(event, MessageStarted):
            start, text = event, ""
        elif isinstance(event, ContentDelta):
            text += event.text
        elif isinstance(event, MessageEnded):
            parts = (start.role, start.channel, start.recipient, start.content_type)
            messages.append(ParsedMessage(*parts, text, event.reason))
    return messages
