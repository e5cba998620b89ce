"""Files and batches in one SQLite file: a BatchStore.

What belongs together is one transaction, so there is no file without its record, and no result that a batch
counts and its output lacks, whenever the process dies or the disk is full.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path

from mosso.api.batches_store import PIECE, StoredBatch, StoredFile, StoredResult, Tally
from mosso.api.usage import TokenCounts
from mosso.core.errors import RequestError
from mosso.server.database import NAMELESS, Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, scope TEXT NOT NULL,
    created INTEGER NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL, size INTEGER NOT NULL,
    expires INTEGER, batch TEXT, kind TEXT);
CREATE INDEX IF NOT EXISTS files_of_scope ON files (scope, seq);
CREATE TABLE IF NOT EXISTS pieces (
    file TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (file, number));
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, scope TEXT NOT NULL, body BLOB NOT NULL,
    active INTEGER NOT NULL, input_file TEXT NOT NULL, priority INTEGER NOT NULL, keep_outputs INTEGER);
CREATE INDEX IF NOT EXISTS batches_of_scope ON batches (scope, seq);
CREATE TABLE IF NOT EXISTS results (
    batch TEXT NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, line BLOB NOT NULL,
    prompt INTEGER NOT NULL, cached INTEGER NOT NULL, generated INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    PRIMARY KEY (batch, number));
CREATE TRIGGER IF NOT EXISTS forget AFTER DELETE ON files BEGIN
    DELETE FROM pieces WHERE file = old.id;
    DELETE FROM results WHERE batch = old.batch AND kind = old.kind;
END;
DELETE FROM pieces WHERE file NOT IN (SELECT id FROM files);  -- of uploads that an earlier process began
PRAGMA user_version = 1;
"""
_FILE = "id, scope, created, filename, purpose, size, expires, batch, kind"
_BATCH = "id, scope, body, active, input_file, priority, keep_outputs"
_LIVES = "(expires IS NULL OR expires > ?)"


class SqliteBatchStore:
    """Without a path it lasts as long as its object. The limits hold for each scope."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        max_files: int = 10_000,
        max_bytes: int = 16 << 30,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._now = now
        self._database = Database(path or NAMELESS, _SCHEMA, "files")
        self._do, self._rows, self._run = self._database.do, self._database.rows, self._database.run

    def close(self) -> None:
        """Waits for what is being written."""
        self._database.close()

    # Files

    async def begin(self, scope: str) -> str:
        await self._do(lambda: self._check_room(scope, 0))
        return f"file-{uuid.uuid4().hex}"

    async def write(self, id: str, number: int, piece: bytes) -> None:  # noqa: A002
        await self._do(lambda: self._run("INSERT INTO pieces VALUES (?, ?, ?)", id, number, piece))

    async def finish(self, file: StoredFile) -> StoredFile:
        def work() -> StoredFile:
            query = "SELECT coalesce(sum(length(data)), 0) FROM pieces WHERE file = ?"
            ((size,),) = self._rows(query, file.id)
            self._check_room(file.scope, size)
            return self._add(replace(file, size=size))

        return await self._do(work)

    async def abandon(self, id: str) -> None:  # noqa: A002
        await self._do(lambda: self._run("DELETE FROM pieces WHERE file = ?", id))

    async def file(self, scope: str, id: str) -> StoredFile | None:  # noqa: A002
        query = f"SELECT {_FILE} FROM files WHERE scope = ? AND id = ? AND {_LIVES}"  # noqa: S608
        rows = await self._do(lambda: self._rows(query, scope, id, self._now()))
        return StoredFile(*rows[0]) if rows else None

    async def files(
        self, scope: str, *, purpose: str | None, after: str | None, newest_first: bool, limit: int
    ) -> list[StoredFile]:
        beyond, order = ("<", "DESC") if newest_first else (">", "ASC")
        query = (
            f"SELECT {_FILE} FROM files WHERE scope = ? AND {_LIVES} "  # noqa: S608
            "AND (? IS NULL OR purpose = ?) "
            f"AND (? IS NULL OR seq {beyond} (SELECT seq FROM files WHERE scope = ? AND id = ?)) "
            f"ORDER BY seq {order} LIMIT ?"
        )
        values = (scope, self._now(), purpose, purpose, after, scope, after, limit)
        return [StoredFile(*row) for row in await self._do(lambda: self._rows(query, *values))]

    async def content(self, file: StoredFile) -> AsyncIterator[bytes]:
        place = -1
        while True:
            place, piece = await self._do(partial(self._piece, file, place))
            if not piece:
                return
            yield piece

    async def delete(self, scope: str, id: str) -> bool:  # noqa: A002
        def work() -> bool:
            if self._rows("SELECT 1 FROM batches WHERE active AND scope = ? AND input_file = ?", scope, id):
                raise RequestError(
                    f"File {id!r} is the input of a batch that is not over.",
                    param="file_id",
                    code="file_in_use",
                )
            return self._run("DELETE FROM files WHERE scope = ? AND id = ?", scope, id) > 0

        return await self._do(work)

    def _piece(self, file: StoredFile, after: int) -> tuple[int, bytes]:
        """What comes next in a file, and the place behind which to go on; nothing at its end."""
        if file.batch is None:
            query = "SELECT number, data FROM pieces WHERE file = ? AND number > ? ORDER BY number LIMIT 1"
            rows = self._rows(query, file.id, after)
            return (rows[0][0], rows[0][1]) if rows else (after, b"")
        lines, size, last = [], 0, after
        query = "SELECT number, line FROM results WHERE batch = ? AND kind = ? AND number > ? ORDER BY number"
        for number, line in self._database.connection.execute(query, (file.batch, file.kind, after)):
            lines.append(line)
            size += len(line)
            last = number
            if size >= PIECE:
                break
        return last, b"".join(lines)

    def _check_room(self, scope: str, more: int) -> None:
        """RequestError unless there may be one more file, of so many bytes."""
        unused = "id NOT IN (SELECT input_file FROM batches WHERE active)"
        self._run(f"DELETE FROM files WHERE expires <= ? AND {unused}", self._now())  # noqa: S608
        query = "SELECT count(*), coalesce(sum(size), 0) FROM files WHERE scope = ?"
        ((count, size),) = self._rows(query, scope)
        hint = "Delete some of them."
        if count >= self._max_files:
            raise RequestError(f"There are {count} files, as many as may be. {hint}", code="too_many_files")
        if size + more > self._max_bytes:
            raise RequestError(
                f"All files together may have {self._max_bytes} bytes; there are {size}, and this one has "
                f"{more}. {hint}",
                code="storage_limit_exceeded",
            )

    def _add(self, file: StoredFile) -> StoredFile:
        marks = ", ".join("?" * len(_FILE.split(",")))
        self._run(
            f"INSERT INTO files ({_FILE}) VALUES ({marks})",  # noqa: S608
            file.id,
            file.scope,
            file.created,
            file.filename,
            file.purpose,
            file.size,
            file.expires,
            file.batch,
            file.kind,
        )
        return file

    # Batches

    async def put(self, batch: StoredBatch, outputs: Sequence[StoredFile] = ()) -> None:
        def work() -> None:
            self._run(
                f"INSERT INTO batches ({_BATCH}) VALUES (?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
                "ON CONFLICT (id) DO UPDATE SET body = excluded.body, active = excluded.active",
                batch.id,
                batch.scope,
                batch.body,
                batch.active,
                batch.input_file,
                batch.priority,
                batch.keep_outputs,
            )
            for file in outputs:
                query = "SELECT coalesce(sum(length(line)), 0) FROM results WHERE batch = ? AND kind = ?"
                ((size,),) = self._rows(query, file.batch, file.kind)
                self._add(replace(file, size=size))

        await self._do(work)

    async def batch(self, scope: str, id: str) -> StoredBatch | None:  # noqa: A002
        query = f"SELECT {_BATCH} FROM batches WHERE scope = ? AND id = ?"  # noqa: S608
        found = await self._batches(query, scope, id)
        return found[0] if found else None

    async def batches(self, scope: str, *, after: str | None, limit: int) -> list[StoredBatch]:
        query = (
            f"SELECT {_BATCH} FROM batches WHERE scope = ? "  # noqa: S608
            "AND (? IS NULL OR seq < (SELECT seq FROM batches WHERE scope = ? AND id = ?)) "
            "ORDER BY seq DESC LIMIT ?"
        )
        return await self._batches(query, scope, after, scope, after, limit)

    async def active(self) -> list[StoredBatch]:
        return await self._batches(f"SELECT {_BATCH} FROM batches WHERE active ORDER BY seq")  # noqa: S608

    async def record(self, batch: str, results: Sequence[StoredResult]) -> None:
        rows = [
            (batch, result.number, result.kind, result.line, *astuple(result.usage)) for result in results
        ]
        insert = "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        await self._do(lambda: self._database.run_each(insert, rows))

    async def tally(self, batch: str) -> Tally:
        def work() -> Tally:
            query = (
                "SELECT coalesce(sum(kind = 'output'), 0), coalesce(sum(kind = 'error'), 0), "
                "coalesce(sum(prompt), 0), coalesce(sum(cached), 0), coalesce(sum(generated), 0), "
                "coalesce(sum(reasoning), 0) FROM results WHERE batch = ?"
            )
            ((completed, failed, *counts),) = self._rows(query, batch)
            numbers = self._rows("SELECT number FROM results WHERE batch = ?", batch)
            return Tally(frozenset(row[0] for row in numbers), completed, failed, TokenCounts(*counts))

        return await self._do(work)

    async def _batches(self, query: str, *values: object) -> list[StoredBatch]:
        rows = await self._do(lambda: self._rows(query, *values))
        return [_batch(*row) for row in rows]


def _batch(
    id: str,  # noqa: A002
    scope: str,
    body: bytes,
    active: int,
    input_file: str,
    priority: int,
    keep_outputs: int | None,
) -> StoredBatch:
    return StoredBatch(id, scope, body, bool(active), input_file, priority, keep_outputs)
