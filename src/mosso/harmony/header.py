"""A message header, however malformed, as role, channel, recipient and content type.

A header is text cut into segments by control tokens: who speaks, then behind `<|channel|>` the channel,
behind `<|constrain|>` the content type; `to=NAME` may stand in any segment. `<|message|>` closes it. Without
that, the first thing that cannot belong to a header is where content starts.

The repairs (RepairKind) follow what gpt-oss was seen to write when it strays: openai/harmony#38, #60 and #68,
vllm-project/vllm#22519, #32587 and #50690, ggml-org/llama.cpp#21286, #25321 and #27720.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from mosso.harmony.conversation import CONSTRAIN, Channel, Role
from mosso.harmony.events import RepairKind

TYPES = frozenset({"json", "code", "text"})
_ROLES = frozenset(Role)
_CHANNELS = frozenset(Channel)
_NOT_TOOLS = frozenset({"all", "assistant", "user"})  # recipients that make no call of an assistant's message

_WORD = re.compile(rb"\S+")
_NOT_NAME = re.compile(r"[^\w.:/@$-]")
_TYPE = re.compile(r"[\w.+/-]+")
_TOOL = re.compile(r"(functions|browser)\.[\w.-]+")
_CHANNEL_INSIDE = re.compile("|".join(Channel))
_FUSED = re.compile(rf"({'|'.join(Role)})({'|'.join(Channel)})")  # e.g. assistantcommentary


class Part(Enum):
    """What a segment starts with."""

    AUTHOR = auto()
    CHANNEL = auto()
    CONSTRAINT = auto()


@dataclass(slots=True)
class Segment:
    part: Part
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Header:
    """`size`: how many of the segments' joined bytes are header; what follows is content already."""

    role: str
    channel: str | None
    recipient: str | None
    content_type: str | None
    repairs: tuple[RepairKind, ...]
    size: int


def read_header(segments: Sequence[Segment], role: str | None) -> Header:
    """Read a header that `<|message|>` closed. `role` is None when the header must say it."""
    reader = _Reader(role, tool_result=_is_tool_result(segments))
    for segment in segments:
        words = [match.group().decode("utf-8", "replace") for match in _WORD.finditer(segment.text)]
        reader.segment(segment.part, words)
    return reader.header(sum(len(segment.text) for segment in segments))


def read_open_header(segments: Sequence[Segment], role: str | None) -> Header:
    """Read a header that nothing closed: only what surely belongs to one is taken, the rest is content."""
    reader = _Reader(role, tool_result=_is_tool_result(segments))
    size = 0
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        taken, words = _surely_header(segment, role, reader, last=last)
        reader.segment(segment.part, words)
        size += taken
        if taken < len(segment.text):
            break
    bare = len(segments) == 1 and not segments[0].text[:size].strip()
    reader.repair(RepairKind.MISSING_HEADER if bare and role is not None else RepairKind.MISSING_MESSAGE)
    return reader.header(size)


def _is_tool_result(segments: Sequence[Segment]) -> bool:
    return any(b"to=assistant" in segment.text for segment in segments)


def _surely_header(
    segment: Segment, role: str | None, reader: _Reader, *, last: bool
) -> tuple[int, list[str]]:
    """(bytes, words) at the start of a segment that belong to a header beyond doubt."""
    text = segment.text.partition(b"{")[0]  # no header has a brace; arguments start with one
    matches = list(_WORD.finditer(text))
    spelled = [match.group().decode("utf-8", "replace") for match in matches]
    called = reader.recipient is not None
    words: list[str] = []
    for index, (match, word) in enumerate(zip(matches, spelled, strict=True)):
        after = spelled[index + 1] if index + 1 < len(spelled) else None
        leads = after.startswith("to=") if after else not last  # more of the header follows
        opens = index == 0 and segment.part is Part.CHANNEL
        if opens and (found := _CHANNEL_INSIDE.match(word)):
            words.append(word[: found.end()])
            if any(map(str.isalnum, word[found.end() :])):
                return match.start() + found.end(), words
        elif word.startswith("to=") or (words and words[-1] == "to="):
            words.append(word)
            called = True
        elif _is_header_word(word, segment.part, index, role, called=called, leads=leads):
            words.append(word)
        else:
            return match.start(), words
    return len(text), words


def _is_header_word(
    word: str, part: Part, index: int, role: str | None, *, called: bool, leads: bool
) -> bool:
    if index == 0 and part is Part.AUTHOR and role is None:
        return word in _ROLES or _FUSED.fullmatch(word) is not None or (leads and "." in word)
    if word in TYPES:
        return called or (part is Part.CONSTRAINT and index == 0)
    return leads and (word == role or word in _CHANNELS or _FUSED.fullmatch(word) is not None)


class _Reader:
    """Collects a header's parts, word by word, and how each was mended."""

    def __init__(self, role: str | None, *, tool_result: bool) -> None:
        self.recipient: str | None = None
        self._role = role
        self._given = role
        self._tool_result = tool_result
        self._channel: str | None = None
        self._content_type: str | None = None
        self._repairs: dict[RepairKind, None] = {}

    def repair(self, kind: RepairKind) -> None:
        self._repairs[kind] = None

    def header(self, size: int) -> Header:
        """The parts, with the assistant's channel and recipient made sense of."""
        role = self._role or self._unknown_role()
        if role == Role.ASSISTANT and self.recipient in _NOT_TOOLS:
            self.repair(RepairKind.BAD_RECIPIENT)
            self.recipient = None
        if role == Role.ASSISTANT and self._channel is None:
            self._channel = Channel.FINAL if self.recipient is None else Channel.COMMENTARY
            if not self._repairs.keys() & {RepairKind.UNKNOWN_CHANNEL, RepairKind.MISSING_HEADER}:
                self.repair(RepairKind.MISSING_CHANNEL)
        return Header(role, self._channel, self.recipient, self._content_type, tuple(self._repairs), size)

    def segment(self, part: Part, words: list[str]) -> None:
        if part is Part.AUTHOR:
            rest = self._author(words)
        elif part is Part.CHANNEL:
            rest = self._named_channel(words)
        else:
            rest = self._constraint(words)
        pending = False  # a bare `to=` waits for its name
        for word in rest:
            if word.startswith("to=") or (pending and word not in TYPES | _CHANNELS):
                pending = self._to(word.removeprefix("to="))
            else:
                self._word(word)

    def _author(self, words: list[str]) -> list[str]:
        """Take the role; it may be written again where it is known already."""
        word, rest = (words[0], words[1:]) if words else ("", [])
        if fused := _FUSED.fullmatch(word):
            self._role = fused[1]
            return [fused[2], *rest]
        if self._given is not None:
            return rest if word == self._given else words
        if word.startswith("to=") or word in _CHANNELS:
            self._unknown_role()
            return words
        is_role = word.partition(":")[0] in _ROLES
        if is_role or (word and ("." in word or self._tool_result)):
            self._role = word
        else:
            self._unknown_role()
        return rest

    def _unknown_role(self) -> str:
        self.repair(RepairKind.UNKNOWN_ROLE)
        self._role = Role.ASSISTANT
        return self._role

    def _named_channel(self, words: list[str]) -> list[str]:
        word, rest = (words[0], words[1:]) if words else ("", [])
        found = _CHANNEL_INSIDE.search(word.lower())
        if found is None or found.group() != word:
            self.repair(RepairKind.UNKNOWN_CHANNEL)
        if found is not None:
            self._set_channel(found.group())
        return words if word.startswith("to=") else rest

    def _set_channel(self, channel: str) -> None:
        if self._channel is not None:
            self.repair(RepairKind.REPEATED_CHANNEL)
        self._channel = channel

    def _constraint(self, words: list[str]) -> list[str]:
        if self._content_type is not None or not words or words[0].startswith("to="):
            self.repair(RepairKind.BAD_CONSTRAINT)
        if not words or words[0].startswith("to="):
            return words
        self._content_type = CONSTRAIN + words[0]
        return words[1:]

    def _to(self, written: str) -> bool:
        """Take a recipient; True when its name is still to come."""
        name = _NOT_NAME.split(written, maxsplit=1)[0].rstrip(".:/-")
        if name != written or not name:
            self.repair(RepairKind.BAD_RECIPIENT)
        if name:
            self._set_recipient(name)
        return not written

    def _set_recipient(self, name: str) -> None:
        if self.recipient not in (None, name):
            self.repair(RepairKind.REPEATED_RECIPIENT)
        self.recipient = name

    def _word(self, word: str) -> None:
        """A word without a mark: by what is missing, the channel, the content type or the recipient."""
        if word in _CHANNELS:
            self.repair(RepairKind.UNMARKED_CHANNEL)
            self._set_channel(word)
        elif self._content_type is None and (word in TYPES or (self.recipient and _TYPE.fullmatch(word))):
            self._content_type = word
        elif self.recipient is None and _TOOL.fullmatch(word):
            self.repair(RepairKind.UNMARKED_RECIPIENT)
            self._set_recipient(word)
        else:
            self.repair(RepairKind.EXTRA_HEADER_TEXT)
