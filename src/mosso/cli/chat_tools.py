"""MCP servers' tools in a terminal chat: they go to the model as functions, their calls are run here."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from mosso.core.errors import UsageError
from mosso.tools.mcp import McpServer, Servers
from mosso.tools.mcp_config import read_config
from mosso.tools.tool import Outcome, RemoteTool, ToolServerError

T = TypeVar("T")
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_-]")


class McpTools:
    """The servers of a file, in a thread with an event loop of its own, as the chat itself just waits.

    A context manager; entering asks every server for its tools, and raises UsageError for one that does not
    tell. `functions` are in the form of a chat completion's `tools`.
    """

    def __init__(self, config: Path) -> None:
        logging.getLogger("mosso.tools").addHandler(logging.NullHandler())  # the screen says what went wrong
        self.functions: list[dict[str, Any]] = []
        self._servers = Servers(read_config(config))
        self._calls: dict[str, tuple[McpServer, str]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="MCP servers", daemon=True)

    def __enter__(self) -> McpTools:
        self._thread.start()
        try:
            for server in self._servers.named.values():
                for tool in self._wait(server.tools()):
                    self._add(server, tool)
        except ToolServerError as error:
            self.__exit__(None, None, None)
            raise UsageError(str(error)) from None
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(self._servers.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def has(self, name: str) -> bool:
        return name in self._calls

    def call(self, name: str, arguments: str) -> Outcome:
        """Run a call; it ends within the server's time limit, or with Ctrl-C."""
        server, tool = self._calls[name]
        return self._wait(server.call(tool, arguments))

    def _add(self, server: McpServer, tool: RemoteTool) -> None:
        name = _ILLEGAL.sub("_", tool.name)[:64]
        if name in self._calls:
            name = _ILLEGAL.sub("_", f"{server.label}__{tool.name}")[:64]
        if name in self._calls:
            return  # two servers' tools of one name each, and even their labels do not tell them apart
        self._calls[name] = server, tool.name
        function: dict[str, Any] = {"name": name, "description": tool.description}
        if tool.schema.get("properties"):
            function["parameters"] = tool.schema
        self.functions.append({"type": "function", "function": function})

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
