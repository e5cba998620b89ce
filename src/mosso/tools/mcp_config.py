"""The operator's MCP servers: the `mcpServers` JSON that other clients read, as checked values."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mosso.core.errors import UsageError

LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_STDIO = ("command", "args", "env", "cwd")
_HTTP = ("url", "headers")


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A program that speaks MCP over its standard streams. It sees of the environment what `env` adds to a
    short list of harmless variables."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server at a URL (streamable HTTP)."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a secret


ServerConfig = StdioServer | HttpServer


def read_config(path: Path) -> dict[str, ServerConfig]:
    """Label → server. `${NAME}` and `${NAME:-default}` are taken from the environment.

    UsageError names what is wrong. Entries with `"disabled": true` are left out.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    servers = data.get("mcpServers") if isinstance(data, dict) else None
    if not isinstance(servers, dict):
        raise UsageError(f'{path} must hold an object {{"mcpServers": {{LABEL: {{…}}}}}}')
    return {
        label: _server(f"{path}: mcpServers.{label}", label, entry)
        for label, entry in servers.items()
        if not (isinstance(entry, dict) and entry.get("disabled") is True)
    }


def _server(where: str, label: str, entry: Any) -> ServerConfig:
    if not LABEL.fullmatch(label):
        raise UsageError(f"{where}: a label has up to 64 letters, digits, - and _")
    if not isinstance(entry, dict):
        raise UsageError(f"{where} must be an object")
    fields = {key: value for key, value in entry.items() if key not in ("type", "disabled", "transport")}
    kind = entry.get("type", entry.get("transport", "http" if "url" in entry else "stdio"))
    if kind == "stdio":
        _check(where, fields, _STDIO, "command")
        strings = _strings(where, fields.get("args", []), "args")
        env = _mapping(where, fields.get("env", {}), "env")
        cwd = fields.get("cwd")
        return StdioServer(_text(where, fields["command"], "command"), strings, env,
                           None if cwd is None else _text(where, cwd, "cwd"))  # fmt: skip
    if kind in ("http", "streamable-http", "streamable_http", "streamableHttp"):
        _check(where, fields, _HTTP, "url")
        url = _text(where, fields["url"], "url")
        if not is_http(url):
            raise UsageError(f"{where}.url must start with http:// or https://")
        return HttpServer(url, _mapping(where, fields.get("headers", {}), "headers"))
    raise UsageError(f"{where}.type: stdio and http are supported, not {kind!r}")


def is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check(where: str, fields: dict[str, Any], known: tuple[str, ...], needed: str) -> None:
    unknown = [key for key in fields if key not in known]
    if unknown:
        raise UsageError(f"{where}.{unknown[0]} is not a setting here; there are {', '.join(known)}")
    if needed not in fields:
        raise UsageError(f"{where}.{needed} is missing")


def _text(where: str, value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}.{name} must be a string")
    return _VARIABLE.sub(_from_environment(where), value)


def _strings(where: str, value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UsageError(f"{where}.{name} must be a list of strings")
    return tuple(
        _text(where, item, f"{name}[{place}]") if item != "" else "" for place, item in enumerate(value)
    )


def _mapping(where: str, value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}.{name} must be an object of strings")
    return {key: _text(where, item, f"{name}.{key}") if item != "" else "" for key, item in value.items()}


def _from_environment(where: str) -> Callable[[re.Match[str]], str]:
    def replace(found: re.Match[str]) -> str:
        value = os.environ.get(found[1], found[2])
        if value is None:
            raise UsageError(f"{where}: the environment variable {found[1]} is not set")
        return value

    return replace
