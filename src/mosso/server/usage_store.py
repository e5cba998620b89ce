"""How many tokens each key's owner has used in all time, in one SQLite file (WAL).

Written behind the event loop's back by a thread of its own. What is written is the total, so a write that
fails (a full disk) loses nothing: the next one heals it. Lost is only what a process had not yet written when
it was killed: what was used in the moment before, and by the streams that were open.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from threading import Lock

from mosso.server.database import MEMORY, Database

logger = logging.getLogger("mosso.server")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (owner TEXT PRIMARY KEY, tokens INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


class UsageStore:
    """Without a path it lives in memory, and ends with its object. StoreError if it cannot be opened."""

    def __init__(self, path: Path | None = None) -> None:
        self._unwritten: dict[str, int] = {}
        self._queued = False  # a write waits for the thread
        self._closed = False
        self._lock = Lock()
        self._database = Database(path or MEMORY, _SCHEMA, "usage")
        self.totals: dict[str, int] = dict(self._database.rows("SELECT owner, tokens FROM usage"))
        """As they were when it was opened."""

    def put(self, owner: str, tokens: int) -> None:
        """The owner's total is now `tokens`. Returns at once; after `close` it comes too late to be kept."""
        with self._lock:
            self._unwritten[owner] = tokens
            silent = self._queued or self._closed
            self._queued = True
        if not silent:
            self._database.later(self._write)

    def close(self) -> None:
        """Waits for what is being written."""
        with self._lock:
            self._closed = True
        self._database.later(self._write)
        self._database.close()

    def _write(self) -> None:
        with self._lock:
            rows, self._unwritten, self._queued = self._unwritten, {}, False
        try:
            with self._database.connection as connection:
                connection.executemany("INSERT OR REPLACE INTO usage VALUES (?, ?)", rows.items())
        except sqlite3.Error as error:
            logger.error("usage of API keys is not written: %s", error)
            with self._lock:
                self._unwritten = rows | self._unwritten  # newer totals win
