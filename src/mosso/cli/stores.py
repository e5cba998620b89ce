"""Where `mosso serve` keeps responses, files and batches, and the key that seals thinking.

By default a file of the port's own in the user's state folder, so that servers on one machine do not share
it; a server on any free port (`--port 0`) keeps nothing beyond its end. A folder that cannot be written to
costs the durability, with a warning, not the server; a path that a person asked for must work.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet

from mosso.api.responses_store import StoreError
from mosso.api.sealing import Sealer
from mosso.core.errors import UsageError
from mosso.server.batch_store import SqliteBatchStore
from mosso.server.sqlite_store import DAY, SqliteStore

logger = logging.getLogger("mosso")


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How long responses are kept, in days, and how many bytes of them; what is older, or over, goes."""

    days: float = 30.0
    size: int = 1 << 30

    def store(self, path: Path | None = None) -> SqliteStore:
        return SqliteStore(path, max_age=int(self.days * DAY), max_bytes=self.size)


@contextmanager
def open_store(
    path: Path | None, port: int, limits: StoreLimits | None = None
) -> Iterator[tuple[SqliteStore, Sealer]]:
    """The store at `path` (default: the port's own) and the sealer that goes with it; closed at the end."""
    with ExitStack() as owned:
        store, sealer = _opened(path, port, limits or StoreLimits(), owned)
        owned.callback(store.close)
        yield store, sealer


@contextmanager
def open_batches(path: Path | None, port: int) -> Iterator[SqliteBatchStore]:
    """Files and batches, beside the store of responses that `open_store` opens; closed at the end."""
    with ExitStack() as owned:
        store = _opened_batches(path, port, owned)
        owned.callback(store.close)
        yield store


def _opened_batches(path: Path | None, port: int, owned: ExitStack) -> SqliteBatchStore:
    if path is None and not port:
        return SqliteBatchStore()
    where = beside(path or default_path(port), ".batches")
    try:
        where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _lock(where, owned)
        return SqliteBatchStore(where)
    except (OSError, StoreError) as error:
        if path is not None:
            raise UsageError(f"cannot keep files in {where}: {error}") from None
        logger.warning("files and batches do not outlive this server: %s: %s", where, error)
        return SqliteBatchStore()


def default_path(port: int) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "mosso" / f"responses-{port}.sqlite3"


def _opened(
    path: Path | None, port: int, limits: StoreLimits, owned: ExitStack
) -> tuple[SqliteStore, Sealer]:
    if path is None and not port:
        return limits.store(), Sealer()
    where = path or default_path(port)
    try:
        where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _lock(where, owned)
        return limits.store(where), Sealer(_key(where))
    except (OSError, RuntimeError, StoreError, ValueError) as error:
        if path is not None:
            raise UsageError(f"cannot keep responses in {where}: {error}") from None
        logger.warning("responses are kept in memory only: %s: %s", where, error)
        return limits.store(), Sealer()


def _lock(path: Path, owned: ExitStack) -> None:
    """Held until `owned` closes or this process ends: two servers on one file would end each other's work."""
    lock = owned.enter_context(beside(path, ".lock").open("ab"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError("another server uses it") from None


def _key(path: Path) -> bytes:
    """The key beside the store, made on first use, readable to its owner only."""
    file = beside(path, ".key")
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_bytes()
    with os.fdopen(descriptor, "wb") as made:
        made.write(Fernet.generate_key())
    return file.read_bytes()


def beside(path: Path, suffix: str) -> Path:
    """Where what goes with the store at `path` is kept."""
    return path.with_name(path.name + suffix)
