"""What files and batches ask of a store. Whoever asks without the right scope finds nothing.

The content of an uploaded file is pieces of bytes; that of an output file is the result lines of its batch,
in the order of the requests: nothing is ever copied together, so nothing can be lost or repeated there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mosso.api.usage import TokenCounts

Kind = Literal["output", "error"]
PIECE = 1 << 20  # bytes of content at a time, about


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`batch` and `kind`: the results that an output file tells; None of one that was uploaded."""

    id: str
    scope: str
    created: int  # seconds since 1970
    filename: str
    purpose: str
    size: int = 0  # bytes; the store knows
    expires: int | None = None
    batch: str | None = None
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """`body` is the batch's JSON. `active`: it is not over. `priority` is its caller's."""

    id: str
    scope: str
    body: bytes
    active: bool
    input_file: str
    priority: int = 0
    keep_outputs: int | None = None  # seconds that its output files live; None: until they are deleted


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What became of the request in line `number` of the input file. `line` ends in a line feed."""

    number: int
    kind: Kind
    line: bytes
    usage: TokenCounts


@dataclass(frozen=True, slots=True)
class Tally:
    """The results so far."""

    numbers: frozenset[int]
    completed: int
    failed: int
    usage: TokenCounts


class BatchStore(Protocol):
    """Every method raises StoreError when the store itself fails. What was put survives the process."""

    async def begin(self, scope: str) -> str:
        """The id of a new file, of which nobody knows until it is finished. RequestError: too many."""
        ...

    async def write(self, id: str, number: int, piece: bytes) -> None:  # noqa: A002
        """The next piece of a file that was begun, counted from 0."""
        ...

    async def finish(self, file: StoredFile) -> StoredFile:
        """The file that was begun is whole; with its size. RequestError where its scope has too much."""
        ...

    async def abandon(self, id: str) -> None:  # noqa: A002
        """Forget a file that was begun."""
        ...

    async def file(self, scope: str, id: str) -> StoredFile | None: ...  # noqa: A002

    async def files(
        self, scope: str, *, purpose: str | None, after: str | None, newest_first: bool, limit: int
    ) -> list[StoredFile]:
        """In the order in which they were made, from behind the file `after`."""
        ...

    def content(self, file: StoredFile) -> AsyncIterator[bytes]:
        """In pieces; it may be read for long, and ends early if the file is deleted meanwhile."""
        ...

    async def delete(self, scope: str, id: str) -> bool:  # noqa: A002
        """False if there was none. RequestError: an active batch reads it."""
        ...

    async def put(self, batch: StoredBatch, outputs: Sequence[StoredFile] = ()) -> None:
        """Keep it, in place of an older one of its id, and its output files with it, all or nothing."""
        ...

    async def batch(self, scope: str, id: str) -> StoredBatch | None: ...  # noqa: A002

    async def batches(self, scope: str, *, after: str | None, limit: int) -> list[StoredBatch]:
        """Newest first, from behind the batch `after`."""
        ...

    async def active(self) -> list[StoredBatch]:
        """All that are not over, of every scope, oldest first."""
        ...

    async def record(self, batch: str, results: Sequence[StoredResult]) -> None:
        """Keep results, all or nothing. A request has one result: one that is there stays."""
        ...

    async def tally(self, batch: str) -> Tally: ...
