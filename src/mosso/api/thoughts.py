"""The thinking that led to a tool call, kept until its result comes back.

gpt-oss was trained to see its own thinking again between a call and its result. Chat completions have no
standard field for it and most clients drop it, so the server remembers it by call id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from mosso.harmony.conversation import Channel

ENTRY_BYTES = 256  # what an entry costs beside its text, roughly


@dataclass(frozen=True, slots=True)
class Thought:
    """One message that came before a call: thinking (analysis) or a preamble (commentary)."""

    channel: Channel
    text: str


Thoughts = tuple[Thought, ...]


def joined(thoughts: Iterable[Thought], channel: Channel) -> str:
    """The text that a client saw for these thoughts."""
    return "\n\n".join(thought.text for thought in thoughts if thought.channel == channel)


class ThoughtStore:
    """Call id → thoughts, least recently used first out; bounded in entries and in bytes of text.

    `namespace` keeps tenants apart: a call id is only found under the one it was stored with. Safe to use
    from any thread.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[str, str], Thoughts] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, namespace: str, call_id: str, thoughts: Thoughts) -> None:
        with self._lock:
            self._remove((namespace, call_id))
            self._entries[namespace, call_id] = thoughts
            self._bytes += _size(thoughts)
            while self._entries and (len(self._entries) > self._max_entries or self._bytes > self._max_bytes):
                self._remove(next(iter(self._entries)))

    def get(self, namespace: str, call_id: str) -> Thoughts:
        """The thoughts before this call; empty when unknown or forgotten."""
        with self._lock:
            thoughts = self._entries.get((namespace, call_id), ())
            if thoughts:
                self._entries.move_to_end((namespace, call_id))
            return thoughts

    def _remove(self, key: tuple[str, str]) -> None:
        self._bytes -= _size(self._entries.pop(key)) if key in self._entries else 0


def _size(thoughts: Thoughts) -> int:
    return ENTRY_BYTES + sum(len(thought.text.encode()) for thought in thoughts)
