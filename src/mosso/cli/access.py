"""The flags of `mosso serve` that say who may use it, and how it is reached safely."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from mosso.api.responses_store import StoreError
from mosso.cli.stores import beside, default_path
from mosso.core.errors import UsageError
from mosso.server.keys import VARIABLE, FixedKeys, KeyFile, Keys, key_of_variable
from mosso.server.tenants import Tenants
from mosso.server.tls import Certificate
from mosso.server.usage_store import UsageStore

F = TypeVar("F", bound=Callable[..., Any])
logger = logging.getLogger("mosso")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_OPTIONS = (
    click.option(
        "--api-keys", type=_FILE, metavar="FILE",
        help=f"Who may use the server, and how much: see `mosso keys`. The variable {VARIABLE} gives one key "
        "more, without limits. Without either, everybody may.",
    ),
    click.option(
        "--metrics", type=click.Choice(["open", "keyed"]), default="open", show_default=True,
        help="Whether /metrics asks for a key too.",
    ),
    click.option(
        "--tls-cert", type=_FILE, metavar="PEM",
        help="Serve https with this certificate chain; it may be renewed while the server runs.",
    ),
    click.option("--tls-key", type=_FILE, metavar="PEM", help="Its key; default: in the same file."),
    click.option(
        "--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN",
        help="Pages of this origin, such as https://example.org, may call from a browser; *: all. May be "
        "repeated; default: none.",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """What those flags say."""

    keys: Keys | None
    tls: Certificate | None
    open_metrics: bool
    cors_origins: tuple[str, ...]


def access_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_access(options: dict[str, Any]) -> Access:
    """Takes its flags out of `options`; UsageError for what is wrong with them or their files."""
    cert, key = options.pop("tls_cert"), options.pop("tls_key")
    if key is not None and cert is None:
        raise UsageError("--tls-key needs --tls-cert")
    for origin in (origins := options.pop("cors_origins")):
        _check_origin(origin)
    return Access(
        keys=_keys(options.pop("api_keys"), os.environ.get(VARIABLE)),
        tls=None if cert is None else Certificate(cert, key),
        open_metrics=options.pop("metrics") == "open",
        cors_origins=origins,
    )


def _check_origin(origin: str) -> None:
    scheme, _, host = origin.partition("://")
    if origin != "*" and not (scheme in ("http", "https") and host and "/" not in host):
        raise UsageError(f"--cors-origin {origin}: an origin is like https://example.org, without a path")


def _keys(file: Path | None, variable: str | None) -> Keys | None:
    always = () if variable is None else (key_of_variable(variable),)
    if file is not None:
        return KeyFile(file, always)
    return FixedKeys(*always) if always else None


@contextmanager
def open_tenants(access: Access, store: Path | None, port: int) -> Iterator[Tenants | None]:
    """Those who have a key, or None where nobody needs one. What each has used is kept beside the store of
    responses, and in memory where that is."""
    if access.keys is None:
        yield None
        return
    with closing(_usage(store, port)) as usage:
        yield Tenants(access.keys, usage)


def _usage(store: Path | None, port: int) -> UsageStore:
    if store is None and not port:
        return UsageStore()
    path = beside(store or default_path(port), ".usage")
    try:
        return UsageStore(path)
    except StoreError as error:
        if store is not None:
            raise UsageError(f"cannot keep the usage of API keys: {error.message}") from None
        logger.warning("usage of API keys is kept in memory only: %s", error.message)
        return UsageStore()


def warn_of_strangers(access: Access, sock: socket.socket) -> None:
    """A warning where others can reach the socket and nobody needs a key."""
    host = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    if access.keys is None and not host.is_loopback:
        logger.warning(
            "whoever reaches %s can use this server: ask for keys with --api-keys or %s, or listen on "
            "127.0.0.1 only",
            "any address of this machine" if host.is_unspecified else host,
            VARIABLE,
        )
