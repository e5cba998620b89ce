"""What a tool is to whoever lets the model use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mosso.core.json import JsonObject
from mosso.harmony.conversation import ToolNamespace

MAX_RESULT_BYTES = 64 << 10  # of one call's result; more would push the conversation out of the context
CUT = "\n[… cut here: the result was too long]"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave: `text` is what the model reads. `failed`: the text says what went wrong.

    `code` is the protocol's number of a failure below the tool itself (a server that is gone, a bad call).
    `url` is the page that was opened, `sources` are those that were found.
    """

    text: str
    failed: bool = False
    code: int | None = None
    url: str | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """A tool of an MCP server, as the server describes it."""

    name: str
    description: str
    schema: JsonObject
    annotations: JsonObject | None = None

    @property
    def read_only(self) -> bool:
        return bool((self.annotations or {}).get("readOnlyHint"))


class ToolServerError(Exception):
    """A server cannot be reached or does not keep to the protocol; the text is for a person to read."""


class ToolServer(Protocol):
    """An MCP server, connected on first use and again after it was lost."""

    async def tools(self) -> tuple[RemoteTool, ...]:
        """Raises ToolServerError."""
        ...

    async def call(self, name: str, arguments: str) -> Outcome:
        """`arguments`: JSON as the model wrote it. Ends within the server's time limit; never raises."""
        ...

    async def close(self) -> None: ...


class Session(Protocol):
    """One response's use of a built-in tool: what earlier calls opened is there for later ones."""

    async def run(self, recipient: str, text: str) -> Outcome:
        """Never raises; bounded in time and in the result's size."""
        ...

    async def close(self) -> None: ...


class Builtin(Protocol):
    """A tool that the model knows by itself. `namespace` is how the system message introduces it."""

    @property
    def namespace(self) -> ToolNamespace: ...

    def open(self) -> Session: ...


def clipped(text: str, most: int = MAX_RESULT_BYTES) -> str:
    """`text` with at most about `most` bytes of UTF-8; says so where something is missing."""
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= most else raw[:most].decode("utf-8", "ignore") + CUT
