"""Stop strings over text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on as soon as it can no longer be the beginning of a stop string.

    The match that ends first wins (among those, the one that starts first), however the text is split.
    Invariant: what was passed on, plus `held`, is all text fed so far; `held` is shorter than the longest
    stop string. Nothing may be fed after a match.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched = ""  # the stop string that ended the text

    def feed(self, text: str) -> str:
        """The text that may be shown now; `matched` tells the stop string that ended it."""
        if not self._stops:
            return text
        text = self._held + text
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            end, start = min(found)
            self.matched, self._held = text[start:end], ""
            return text[:start]
        keep = self._unsure(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once the text has ended."""
        held, self._held = self._held, ""
        return held

    def _unsure(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
