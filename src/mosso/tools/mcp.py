"""MCP servers through the official SDK: connected on first use, listed, called, closed.

A server that hangs, dies, floods or lies costs its call a few seconds and gives the model an error to read;
the connection is dropped then, and the next call makes a new one. Needs the extra `mcp`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mosso.core.errors import UsageError
from mosso.tools.mcp_config import HttpServer, ServerConfig, StdioServer
from mosso.tools.tool import MAX_RESULT_BYTES, Outcome, RemoteTool, ToolServerError, clipped

if TYPE_CHECKING:
    import httpx2
    from mcp import Client
    from mcp_types import CallToolResult, Tool

logger = logging.getLogger("mosso.tools")

MAX_TOOLS = 256  # of one server
MAX_PAGES = 32  # of a server's list; one that lies has no last page
MAX_DESCRIPTION_BYTES = 4 << 10
MAX_SCHEMA_BYTES = 64 << 10
MAX_BODY_BYTES = 4 << 20  # of one HTTP answer
LIST_SECONDS = 60.0  # that a server's list of tools is believed
INVALID_PARAMS = -32602  # JSON-RPC's
CONNECTION_LOST = -32000  # the first of those that JSON-RPC leaves to the implementation


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for connecting and listing, and for a call; bytes of a result."""

    connect_seconds: float = 20.0
    call_seconds: float = 60.0
    result_bytes: int = MAX_RESULT_BYTES


def check_installed() -> None:
    """UsageError where the SDK is missing."""
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise UsageError("MCP servers need the extra `mcp`: pip install 'mosso[mcp]'") from None


class McpServer:
    """One server; see ToolServer. Belongs to the event loop that first uses it."""

    def __init__(self, label: str, config: ServerConfig, limits: Limits | None = None) -> None:
        self.label = label
        self._config = config
        self._limits = limits or Limits()
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._listed: tuple[float, tuple[RemoteTool, ...]] | None = None

    async def tools(self) -> tuple[RemoteTool, ...]:
        """What the server offers; ToolServerError if it does not tell in time."""
        if self._listed is not None and time.monotonic() - self._listed[0] < LIST_SECONDS:
            return self._listed[1]
        async with self._connecting:  # one list for all that ask at once
            client = await self._connected()
            try:
                async with asyncio.timeout(self._limits.connect_seconds):
                    tools = [_remote(tool) async for tool in _pages(client)]
            except Exception as error:
                await self._drop()
                raise ToolServerError(self._complaint("did not list its tools", error)) from None
        sound = tuple(tool for tool in tools if tool is not None)
        self._listed = time.monotonic(), sound
        return sound

    async def call(self, name: str, arguments: str) -> Outcome:
        """Call a tool; see ToolServer."""
        from mcp import MCPError

        try:
            given = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            return Outcome("The arguments must be a JSON object.", failed=True, code=INVALID_PARAMS)
        try:
            async with self._connecting:
                client = await self._connected()
            async with asyncio.timeout(self._limits.call_seconds):
                result = await client.call_tool(name, given)
        except ToolServerError as error:
            return Outcome(str(error), failed=True, code=CONNECTION_LOST)
        except TimeoutError:
            await self._drop()
            text = f"The tool server {self.label} gave no answer in {self._limits.call_seconds:.0f} s."
            return Outcome(text, failed=True, code=CONNECTION_LOST)
        except Exception as error:
            # A server that answers with an error of the protocol is well.
            if not (isinstance(error, MCPError) and -32700 <= error.code <= -32600):
                await self._drop()
            code = error.code if isinstance(error, MCPError) else CONNECTION_LOST
            return Outcome(self._complaint("failed", error), failed=True, code=code)
        return Outcome(clipped(_text(result), self._limits.result_bytes), failed=bool(result.is_error))

    async def close(self) -> None:
        async with self._connecting:
            await self._drop()

    async def _connected(self) -> Client:
        """The connection, a new one where there is none; `_connecting` is held."""
        if self._link is None or self._link.over:
            self._link = _Link(lambda: _client(self._config))
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                return await self._link.client()
        except Exception as error:
            await self._drop()
            raise ToolServerError(self._complaint("cannot be reached", error)) from None
        except BaseException:  # whoever waited is gone; the connection is half made
            await self._drop()
            raise

    async def _drop(self) -> None:
        link, self._link, self._listed = self._link, None, None
        if link is not None:
            await link.close()

    def _complaint(self, what: str, error: BaseException) -> str:
        text = f"The tool server {self.label} {what}{_reason(error)}."
        logger.warning("%s", text)
        return text


class _Link:
    """A connection, entered and left in a task of its own, as the SDK's scopes demand."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._live(make))

    @property
    def over(self) -> bool:
        return self._task.done()

    async def client(self) -> Client:
        return await asyncio.shield(self._ready)

    async def close(self) -> None:
        """Returns when the connection has ended, whatever the server does."""
        self._leave.set()
        if not self._ready.done():
            self._task.cancel()
        await asyncio.wait([self._task], timeout=10.0)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # it has been told, or nobody asked

    async def _live(self, make: Callable[[], Client]) -> None:
        try:
            async with make() as client:
                self._ready.set_result(client)
                await self._leave.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(_plain(error))
            elif isinstance(error, Exception):
                logger.info("an MCP connection ended with %s", _reason(error) or type(error).__name__)
            if not isinstance(error, Exception):
                raise


def _plain(error: BaseException) -> Exception:
    """The first error inside a group, as an Exception that a future may carry."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else ConnectionError("the connection was given up")


def _reason(error: BaseException) -> str:
    error = _plain(error)
    text = "no answer in time" if isinstance(error, TimeoutError) else str(error)
    return f": {clipped(text, 300)}" if text else ""


def _client(config: ServerConfig) -> Client:
    from mcp import Client

    if isinstance(config, StdioServer):
        from mosso.tools.mcp_stdio import program

        return Client(program(config))
    return Client(_over_http(config))


def _over_http(config: HttpServer) -> Any:
    from contextlib import asynccontextmanager

    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    @asynccontextmanager
    async def transport() -> AsyncIterator[Any]:
        timeout = httpx2.Timeout(30.0, read=300.0)
        bounded = _bounded(httpx2.AsyncHTTPTransport())
        async with (
            httpx2.AsyncClient(headers=dict(config.headers), timeout=timeout, transport=bounded) as http,
            streamable_http_client(config.url, http_client=http) as streams,
        ):
            yield streams

    return transport()


def _bounded(inner: httpx2.AsyncHTTPTransport) -> httpx2.AsyncBaseTransport:
    """A transport whose answers end, with an error, where they are over MAX_BODY_BYTES."""
    import httpx2

    class Body(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise httpx2.ReadError(f"an answer of more than {MAX_BODY_BYTES} bytes")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    class Bounded(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await inner.handle_async_request(request)
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = Body(response.stream)
            return response

        async def aclose(self) -> None:
            await inner.aclose()

    return Bounded()


async def _pages(client: Client) -> AsyncIterator[Tool]:
    cursor, count = None, 0
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor, cache_mode="bypass")
        for tool in page.tools:
            count += 1
            if count > MAX_TOOLS:
                return
            yield tool
        cursor = page.next_cursor
        if not cursor:
            return


def _remote(tool: Tool) -> RemoteTool | None:
    """None for a tool that nobody could show to a model."""
    if not 0 < len(tool.name) <= 128 or len(json.dumps(tool.input_schema)) > MAX_SCHEMA_BYTES:
        logger.warning("an MCP tool with a name or schema of absurd size is left out")
        return None
    notes = (
        None if tool.annotations is None else tool.annotations.model_dump(by_alias=True, exclude_none=True)
    )
    return RemoteTool(
        tool.name, clipped(tool.description or "", MAX_DESCRIPTION_BYTES), tool.input_schema, notes
    )


def _text(result: CallToolResult) -> str:
    """A result as text for a model that reads nothing else; structure where there is no text."""
    parts = [
        _part(block.model_dump(mode="json", by_alias=True, exclude_none=True)) for block in result.content
    ]
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)


def _part(block: Mapping[str, Any]) -> str:
    match block.get("type"):
        case "text":
            return str(block["text"])
        case "resource" if "text" in block["resource"]:
            return str(block["resource"]["text"])
        case "resource_link":
            return str(block["uri"])
        case kind:
            return f"[{kind}: this model reads only text]"


class Servers:
    """The operator's servers by label, and the door to those that a request names by URL.

    `allowed`: URLs under which requests may name servers; empty: none. Everybody who may send requests can
    make this machine connect there (server-side request forgery), so it is a list, and empty by default.
    """

    def __init__(
        self,
        configured: Mapping[str, ServerConfig],
        allowed: tuple[str, ...] = (),
        limits: Limits | None = None,
    ) -> None:
        check_installed()
        self._limits = limits
        self._allowed = allowed
        self.named: dict[str, McpServer] = {
            label: McpServer(label, config, limits) for label, config in configured.items()
        }

    def allows(self, url: str) -> bool:
        """Whether a request may name this URL: one of `allowed`, or below one of them."""
        return any(_is_under(url, base) for base in self._allowed)

    def at(self, label: str, url: str, headers: Mapping[str, str]) -> McpServer:
        """A server of one request; whoever asks for it closes it."""
        assert self.allows(url)
        return McpServer(label, HttpServer(url, headers), self._limits)

    async def close(self) -> None:
        await _all(server.close() for server in self.named.values())


async def _all(work: Iterable[Any]) -> None:
    await asyncio.gather(*work, return_exceptions=True)


def _is_under(url: str, base: str) -> bool:
    try:
        given, allowed = urlsplit(url), urlsplit(base)
        same = (given.scheme, given.hostname, given.port) == (allowed.scheme, allowed.hostname, allowed.port)
    except ValueError:
        return False
    root = allowed.path.rstrip("/")
    steps = given.path.replace("%2e", ".").replace("%2E", ".").split("/")
    plain = ".." not in steps and "\\" not in url and given.username is None
    return same and plain and (not root or given.path == root or given.path.startswith(root + "/"))
