"""API keys: who may use the server. Their file holds hashes only, and is read again when it changes.

A key is 32 random bytes, so SHA-256 is the right hash for it: there is no dictionary to try, and a slow hash
made for passwords would let strangers burn milliseconds with every request. Comparison takes the same time
whatever was given.

    [ann]                          # the owner: letters, digits, - and _
    sha256 = "9f86d081..."         # or a list of several, while one replaces another
    priority = 0                   # lower is served first
    requests_per_minute = 600      # each of the limits may be left out
    tokens_per_minute = 1_000_000
    concurrency = 16               # requests at once
    token_quota = 50_000_000       # for all time
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path
from typing import Any, Protocol

from mosso.core.errors import UsageError
from mosso.server.allowances import LIMIT_NAMES, Limits

logger = logging.getLogger("mosso.server")
PREFIX = "sk-mosso-"  # lets scanners of repositories tell what leaked
VARIABLE = "MOSSO_API_KEY"
VARIABLE_OWNER = "default"
LOOK_SECONDS = 1.0  # between two looks at the file
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST = 2**53


@dataclass(frozen=True, slots=True)
class Key:
    """One owner's. Any of `digests` opens; what is kept for the owner goes by the name, whatever the key."""

    name: str
    digests: tuple[bytes, ...]
    priority: int = 0
    limits: Limits = field(default_factory=Limits)


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


class KeyRing:
    """Keys by their secrets and by their names; UsageError where two owners share one."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: dict[str, Key] = {}
        owners: dict[bytes, str] = {}
        for key in keys:
            if key.name in self._keys:
                raise UsageError(f"there are two API keys named {key.name!r}")
            self._keys[key.name] = key
            for digest in key.digests:
                if owners.setdefault(digest, key.name) != key.name:
                    raise UsageError(f"{owners[digest]!r} and {key.name!r} have the same API key")

    def find(self, secret: bytes) -> Key | None:
        """Whose it is. Takes as long for every secret: all keys are compared, none with an early end."""
        given, found = digest_of(secret), None
        for key in self._keys.values():
            for digest in key.digests:
                if compare_digest(digest, given):
                    found = key
        return found

    def named(self, name: str) -> Key | None:
        return self._keys.get(name)


class Keys(Protocol):
    """Where the keys that are valid now come from."""

    @property
    def ring(self) -> KeyRing: ...


class KeyFile:
    """The keys of a file, and those that are `always` there. A file that is gone or broken costs nothing: the
    keys stay as they were, and the log says why.

    Looks at the file when asked for the keys, once in LOOK_SECONDS. UsageError if it is wrong at first.
    """

    def __init__(
        self, path: Path, always: tuple[Key, ...] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._always = always
        self._clock = clock
        try:
            self._seen = self._stamp()
            self._ring = self._read()
        except OSError as error:
            raise UsageError(f"cannot read the API keys in {path}: {error.strerror}") from None
        self._looked = clock()
        self._trouble = ""

    @property
    def ring(self) -> KeyRing:
        if self._clock() - self._looked >= LOOK_SECONDS:
            self._looked = self._clock()
            self._look()
        return self._ring

    def _look(self) -> None:
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp  # before it is read: what changes meanwhile is seen next time
            self._ring = self._read()
        except (OSError, UsageError) as error:
            if str(error) != self._trouble:  # said once, not with every look
                logger.error("API keys stay as they were: %s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""
            logger.info("API keys are read again from %s", self._path)

    def _stamp(self) -> tuple[int, ...]:
        now = self._path.stat()
        return now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino

    def _read(self) -> KeyRing:
        return KeyRing((*self._always, *read_keys(self._path)))


class FixedKeys:
    """Keys that never change."""

    def __init__(self, *keys: Key) -> None:
        self.ring = KeyRing(keys)


def key_of_variable(value: str) -> Key:
    """The one key of an environment variable; it may do everything."""
    if not value.strip():
        raise UsageError(f"{VARIABLE} is empty; unset it, or give it a key (`mosso keys new` prints one)")
    return Key(VARIABLE_OWNER, (digest_of(value.strip().encode()),))


def read_keys(path: Path) -> list[Key]:
    """The keys of a file. UsageError names what is wrong, and never repeats a value: it might be a secret."""
    try:
        tables = tomllib.loads(path.read_text())
    except ValueError as error:  # also text that is no UTF-8
        raise UsageError(f"{path}: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: it is nested too deeply") from None
    keys = []
    for name, table in tables.items():
        try:
            keys.append(_key(name, table))
        except ValueError as error:
            raise UsageError(f"{path}: [{name}] {error}") from None
    KeyRing(keys)
    return keys


def _key(name: str, table: Any) -> Key:
    if not isinstance(table, dict):
        raise ValueError("must be a table: [name] on a line of its own")
    if not _NAME.fullmatch(name):
        raise ValueError("must be named by 1 to 64 letters, digits, - and _")
    for unknown in table.keys() - {"sha256", "priority", *LIMIT_NAMES}:
        raise ValueError(f"{unknown}: no such setting")
    if "sha256" not in table:
        raise ValueError("sha256 is missing")
    given = table["sha256"]
    digests = [given] if isinstance(given, str) else given
    if not isinstance(digests, list) or not digests or not all(map(_is_digest, digests)):
        raise ValueError("sha256 must be 64 hexadecimal digits in lower case, or a list of such")
    limits = {limit: _number(limit, table[limit], 1) for limit in LIMIT_NAMES if limit in table}
    priority = _number("priority", table.get("priority", 0), -_MOST)
    return Key(name, tuple(map(bytes.fromhex, digests)), priority, Limits(**limits))


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _number(name: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
        raise ValueError(f"{name} must be a whole number" + (" from 1 on" if least == 1 else ""))
    return value
