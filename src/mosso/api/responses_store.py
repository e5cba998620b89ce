"""What the Responses API asks of a store. Records are bytes to it; whoever asks without the right scope
finds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mosso.core.errors import MossoError


class StoreError(MossoError):
    """The store could not keep or find something: disk full, damaged, gone."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """`body` is the response's JSON, `items` the JSON list of its own input items. `previous` is the response
    that it follows. `active`: it runs in the background; after a restart such a one has failed."""

    id: str
    scope: str
    created: int  # seconds since 1970
    body: bytes
    items: bytes
    previous: str | None = None
    active: bool = False


class ResponseStore(Protocol):
    """Every method raises StoreError when the store itself fails."""

    async def put(self, record: StoredResponse) -> None:
        """Keep it, in place of an older record of its id."""
        ...

    async def append(self, id: str, first: int, events: Sequence[bytes]) -> None:  # noqa: A002
        """Keep events of a stream, numbered from `first` on; ignored for an unknown id."""
        ...

    async def events(self, scope: str, id: str, after: int) -> list[bytes]:  # noqa: A002
        """The kept events numbered above `after`."""
        ...

    async def get(self, scope: str, id: str) -> StoredResponse | None: ...  # noqa: A002

    async def chain(self, scope: str, id: str) -> list[StoredResponse]:  # noqa: A002
        """The response and those before it, oldest first, as far back as they are kept."""
        ...

    async def active(self) -> list[StoredResponse]:
        """All that are marked as running, of every scope."""
        ...

    async def delete(self, scope: str, id: str) -> bool:  # noqa: A002
        """False if there was none."""
        ...
