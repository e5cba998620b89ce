"""Whether the server takes work, and how much it has in hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mosso.core.errors import UnavailableError


class Lifecycle:
    """Serving → draining; never back. All work that uses the engine is counted in `active`."""

    def __init__(self, drain_seconds: float) -> None:
        self.active = 0
        self._drain_seconds = drain_seconds
        self._deadline: float | None = None

    @property
    def draining(self) -> bool:
        return self._deadline is not None

    def drain(self) -> None:
        """Take no new work from now on."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._drain_seconds

    def may_exit(self) -> bool:
        """Draining, and the work is done or its time is up."""
        return self._deadline is not None and (not self.active or time.monotonic() >= self._deadline)

    @contextmanager
    def work(self) -> Iterator[None]:
        """One request in hand; UnavailableError while draining."""
        if self.draining:
            raise UnavailableError("The server is shutting down and takes no new requests.")
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
