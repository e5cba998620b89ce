"""One SQLite file, written ahead (WAL), and the one thread that works on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mosso.api.responses_store import StoreError

T = TypeVar("T")
MEMORY, NAMELESS = ":memory:", ""


class Database:
    """Owns its connection and its thread: the event loop never waits for a disk.

    What was committed survives this process's death at any moment. Without a path the data is private to this
    object and ends with it: in MEMORY, or where it may be too much for that in a file that has no name,
    NAMELESS. A file that is made here can be read by its owner only; SQLite gives those beside it the same
    rights. `what` it keeps is named in its errors.
    """

    def __init__(self, path: Path | str, schema: str, what: str) -> None:
        self._what = what
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"store of {what}")
        try:
            if path not in (MEMORY, NAMELESS):
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self.connection = sqlite3.connect(path, check_same_thread=False)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self.connection.execute("PRAGMA foreign_keys = ON")
            self.connection.executescript(schema)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path}: {error}") from None

    def close(self) -> None:
        """Waits for what is being written."""
        self._thread.shutdown()
        self.connection.close()

    async def do(self, work: Callable[[], T]) -> T:
        """`work` in the database's thread, as one transaction; StoreError when the database fails.

        It must not return a cursor: one that is let go in another thread makes SQLite fail now and then.
        Whoever is cancelled meanwhile does not end the transaction.
        """

        def transaction() -> T:
            with self.connection:
                result = work()
            assert not isinstance(result, sqlite3.Cursor)
            return result

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except (sqlite3.Error, RuntimeError) as error:  # RuntimeError: closed already
            raise StoreError(f"The store of {self._what} failed: {error}.") from error

    def later(self, work: Callable[[], object]) -> None:
        """`work` in the database's thread, after what it has to do; nobody hears of its end or its errors."""
        self._thread.submit(work)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Within `work`: all rows of a query."""
        return self.connection.execute(query, values).fetchall()

    def run(self, statement: str, *values: object) -> int:
        """Within `work`: how many rows a statement changed."""
        return self.connection.execute(statement, values).rowcount

    def run_each(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Within `work`: the statement with the values of every row."""
        self.connection.executemany(statement, rows)
