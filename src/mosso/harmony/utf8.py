"""Bytes in any split → text, characters whole."""

from __future__ import annotations

import codecs


class Utf8Stream:
    """Holds back the bytes of an unfinished character. Invalid bytes become U+FFFD.

    Joined, the bytes given back are the bytes fed, and each piece of text is its bytes decoded.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, raw: bytes) -> tuple[str, bytes]:
        """The text that is certain now, with the bytes it stands for; ("", b"") while all is held back."""
        seen = self._decoder.getstate()[0] + raw
        text = self._decoder.decode(raw)
        held = self._decoder.getstate()[0]
        return text, seen[: len(seen) - len(held)]

    def flush(self) -> tuple[str, bytes]:
        """What is held back, as U+FFFD; the stream starts anew."""
        held = self._decoder.getstate()[0]
        text = self._decoder.decode(b"", final=True)
        return text, held
