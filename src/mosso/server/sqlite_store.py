"""Stored responses in one SQLite file, written ahead (WAL): what was put survives the process's death.

One thread of its own does all the work, so the event loop never waits for a disk. The file is bounded: the
oldest responses go when they are older than `max_age` or when all together are larger than `max_bytes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mosso.api.responses_store import StoredResponse
from mosso.server.database import MEMORY, Database

DAY = 24 * 3600
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, scope TEXT NOT NULL, created INTEGER NOT NULL, body BLOB NOT NULL,
    items BLOB NOT NULL, previous TEXT, active INTEGER NOT NULL, size INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_age ON responses (created);
CREATE TABLE IF NOT EXISTS events (
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE, number INTEGER NOT NULL,
    payload BLOB NOT NULL, PRIMARY KEY (response, number)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_COLUMNS = "id, scope, created, body, items, previous, active"
_CHAIN = f"""
WITH RECURSIVE chain (id, depth) AS (
    SELECT id, 0 FROM responses WHERE id = :id AND scope = :scope
    UNION ALL
    SELECT r.previous, depth + 1 FROM chain JOIN responses r ON r.id = chain.id AND r.scope = :scope
    WHERE r.previous IS NOT NULL)
SELECT {_COLUMNS} FROM chain JOIN responses USING (id) WHERE scope = :scope ORDER BY depth DESC
"""  # noqa: S608 - our own column names


class SqliteStore:
    """A ResponseStore. Without a path it lives in memory, and ends with its object."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        max_age: int = 30 * DAY,
        max_bytes: int = 1 << 30,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._now = now
        self._database = Database(path or MEMORY, _SCHEMA, "responses")
        self._do, self._connection = self._database.do, self._database.connection
        self._bytes: int = self._one("SELECT coalesce(sum(size), 0) FROM responses")[0]

    def close(self) -> None:
        """Waits for what is being written."""
        self._database.close()

    async def put(self, record: StoredResponse) -> None:
        await self._do(lambda: self._put(record))

    async def append(self, id: str, first: int, events: Sequence[bytes]) -> None:  # noqa: A002
        await self._do(lambda: self._append(id, first, events))

    async def events(self, scope: str, id: str, after: int) -> list[bytes]:  # noqa: A002
        query = (
            "SELECT payload FROM events JOIN responses ON id = response "
            "WHERE response = ? AND scope = ? AND number > ? ORDER BY number"
        )
        rows = await self._do(lambda: self._connection.execute(query, (id, scope, after)).fetchall())
        return [row[0] for row in rows]

    async def get(self, scope: str, id: str) -> StoredResponse | None:  # noqa: A002
        query = f"SELECT {_COLUMNS} FROM responses WHERE id = ? AND scope = ?"  # noqa: S608
        row = await self._do(lambda: self._connection.execute(query, (id, scope)).fetchone())
        return None if row is None else _record(row)

    async def chain(self, scope: str, id: str) -> list[StoredResponse]:  # noqa: A002
        values = {"id": id, "scope": scope}
        rows = await self._do(lambda: self._connection.execute(_CHAIN, values).fetchall())
        return [_record(row) for row in rows]

    async def active(self) -> list[StoredResponse]:
        query = f"SELECT {_COLUMNS} FROM responses WHERE active"  # noqa: S608
        return [_record(row) for row in await self._do(lambda: self._connection.execute(query).fetchall())]

    async def delete(self, scope: str, id: str) -> bool:  # noqa: A002
        return await self._do(lambda: self._delete("id = ? AND scope = ?", (id, scope))) > 0

    def _put(self, record: StoredResponse) -> None:
        size = len(record.body) + len(record.items)
        old = self._one("SELECT coalesce(sum(size), 0) FROM responses WHERE id = ?", record.id)[0]
        kept = self._one(
            "SELECT coalesce(sum(length(payload)), 0) FROM events WHERE response = ?", record.id
        )[0]
        self._connection.execute(
            f"INSERT INTO responses ({_COLUMNS}, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
            "ON CONFLICT (id) DO UPDATE "
            "SET body = excluded.body, active = excluded.active, size = excluded.size",
            (
                record.id,
                record.scope,
                record.created,
                record.body,
                record.items,
                record.previous,
                record.active,
                size + kept,
            ),
        )
        self._bytes += size + kept - old
        self._prune(record.id)

    def _append(self, id: str, first: int, events: Sequence[bytes]) -> None:  # noqa: A002
        size = sum(map(len, events))
        if not self._connection.execute(
            "UPDATE responses SET size = size + ? WHERE id = ?", (size, id)
        ).rowcount:
            return
        rows = [(id, first + place, payload) for place, payload in enumerate(events)]
        self._connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
        self._bytes += size

    def _prune(self, newest: str) -> None:
        """Drops what is too old, then the oldest while there is too much; never what still runs."""
        self._delete("created < ? AND NOT active AND id != ?", (int(self._now()) - self._max_age, newest))
        while self._bytes > self._max_bytes:
            oldest = (
                "id = (SELECT id FROM responses WHERE NOT active AND id != ? ORDER BY created, rowid LIMIT 1)"
            )
            if not self._delete(oldest, (newest,)):
                return

    def _delete(self, where: str, values: tuple[object, ...]) -> int:
        """How many responses went."""
        gone = self._connection.execute(f"DELETE FROM responses WHERE {where} RETURNING size", values)  # noqa: S608
        sizes = [row[0] for row in gone]
        self._bytes -= sum(sizes)
        return len(sizes)

    def _one(self, query: str, *values: object) -> tuple[int, ...]:
        row: tuple[int, ...] = self._connection.execute(query, values).fetchone()
        return row


def _record(row: tuple[str, str, int, bytes, bytes, str | None, int]) -> StoredResponse:
    response_id, scope, created, body, items, previous, active = row
    return StoredResponse(response_id, scope, created, body, items, previous, bool(active))
