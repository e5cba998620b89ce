"""`mosso keys`: who may use a server, and how much."""

from __future__ import annotations

import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from mosso.core.errors import UsageError
from mosso.server.keys import digest_of, new_secret, read_keys

_FILE = click.Path(dir_okay=False, path_type=Path)
_NUMBER = click.IntRange(min=1)


@click.group("keys")
def command() -> None:
    """Make, list and take back the API keys of `mosso serve --api-keys FILE`.

    FILE holds a table for each owner, with the SHA-256 of the owner's key, never the key itself, and with
    limits, each of which may be left out or changed by hand:

    \b
        [ann]
        sha256 = "5e88..."
        priority = 0
        requests_per_minute = 600
        tokens_per_minute = 1_000_000
        concurrency = 16
        token_quota = 50_000_000

    A server that runs takes over what changes within a second or two. What belongs to an owner (responses,
    cached prefixes, usage) goes by the name, so it stays when the key is replaced.
    """


@command.command("new")
@click.argument("file", type=_FILE, required=False)
@click.argument("name", required=False)
@click.option("--another", is_flag=True, help="One key more for a name that has one, to replace it by.")
@click.option("--priority", type=int, help="Lower is served first; default: 0.")
@click.option("--requests-per-minute", type=_NUMBER, help="Requests that generate.")
@click.option("--tokens-per-minute", type=_NUMBER, help="Tokens of prompts and answers.")
@click.option("--concurrency", type=_NUMBER, help="Requests at once.")
@click.option("--token-quota", type=_NUMBER, help="Tokens for all time.")
def new(file: Path | None, name: str | None, another: bool, **settings: int | None) -> None:
    """Print a new key, once, and put its hash into FILE under NAME.

    Without FILE it is only printed: for the variable MOSSO_API_KEY.
    """
    secret = new_secret()
    given = {setting: value for setting, value in settings.items() if value is not None}
    if file is not None:
        if name is None:
            raise UsageError("NAME is missing: whose key is it?")
        _add(file, name, digest_of(secret.encode()).hex(), another=another, settings=given)
    elif given or another:
        raise UsageError("limits are kept in FILE, and none is given")
    click.echo(secret)


@command.command("list")
@click.argument("file", type=_FILE)
def list_keys(file: Path) -> None:
    """Print the names in FILE, and their limits."""
    keys = _checked(file)
    if not keys:
        click.echo("no keys", err=True)  # stdout holds names alone
    for key in keys:
        limits = [f"{limit.name}={getattr(key.limits, limit.name)}" for limit in fields(key.limits)
                  if getattr(key.limits, limit.name) is not None]  # fmt: skip
        several = [f"keys={len(key.digests)}"] if len(key.digests) > 1 else []
        place = [f"priority={key.priority}"] if key.priority else []
        click.echo(" ".join([key.name, *several, *place, *limits]))


@command.command("remove")
@click.argument("file", type=_FILE)
@click.argument("name")
def remove(file: Path, name: str) -> None:
    """Take NAME out of FILE, with all its keys."""
    document = _document(file)
    if name not in document:
        raise UsageError(f"{file} has no key named {name!r}")
    del document[name]
    _write(file, document)


def _add(file: Path, name: str, digest: str, *, another: bool, settings: dict[str, int]) -> None:
    import tomlkit

    document = _document(file) if file.exists() or another else tomlkit.document()
    if another:
        if name not in document:
            raise UsageError(f"{file} has no key named {name!r}")
        if settings:
            raise UsageError("limits belong to the name, not to a key: change them in the file")
        old = document[name]["sha256"]
        document[name]["sha256"] = [*([old] if isinstance(old, str) else old), digest]
    elif name in document:
        raise UsageError(f"{file} has a key named {name!r} already; --another adds one more")
    else:
        table = tomlkit.table()
        table.update({"sha256": digest} | settings)
        document[name] = table
    _write(file, document)


def _checked(file: Path) -> list[Any]:
    try:
        return read_keys(file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def _document(file: Path) -> Any:
    """What the file holds, comments and all."""
    import tomlkit

    _checked(file)
    return tomlkit.parse(file.read_text())


def _write(file: Path, document: Any) -> None:
    """In one move, so that a server never reads half of it; readable to its owner only, if it is new."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    try:
        descriptor, path = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(descriptor, "w") as made:
            made.write(document.as_string())
        fresh = Path(path)
        try:
            read_keys(fresh)
            fresh.chmod(mode)
            fresh.replace(file)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None
