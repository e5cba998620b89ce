"""What the api room tells whoever keeps the metrics. All methods are cheap and never raise."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    def started(self, *, prompt_tokens: int, choices: int, max_tokens: int) -> None:
        """A request is translated and goes to the engine."""

    def first_token(self, seconds: float) -> None:
        """From the request's arrival to its first token."""

    def more_tokens(self, count: int, seconds: float) -> None:
        """`count` tokens came `seconds` after the ones before them."""

    def spent(self, *, queued: float, prefill: float, decode: float, tokens: int) -> None:
        """Where the seconds of a choice went that ended with so many tokens, at least one: before it had a
        row in the engine, from there to its first token, and from there to its last one."""

    def finished(self, reason: str, *, generated_tokens: int, seconds: float) -> None:
        """One choice ended; reason: stop, length, tool_calls, abort or error."""

    def repaired(self, kind: str) -> None:
        """The parser mended a malformed stream."""

    def not_stored(self) -> None:
        """A response that was to be stored could not be."""


class NullObserver:
    """Watches nothing."""

    def started(self, *, prompt_tokens: int, choices: int, max_tokens: int) -> None: ...

    def first_token(self, seconds: float) -> None: ...

    def more_tokens(self, count: int, seconds: float) -> None: ...

    def spent(self, *, queued: float, prefill: float, decode: float, tokens: int) -> None: ...

    def finished(self, reason: str, *, generated_tokens: int, seconds: float) -> None: ...

    def repaired(self, kind: str) -> None: ...

    def not_stored(self) -> None: ...
