"""A program's standard streams as a transport of the MCP SDK.

The SDK has one of its own, which keeps an endless line in memory for as long as it comes. Here a line has a
limit, and the program and all that it started end with the connection.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.client._transport import TransportStreams

    from mosso.tools.mcp_config import StdioServer

MAX_LINE_BYTES = 4 << 20  # one message
GRACE_SECONDS = 1.0  # between closing the program's input, asking it to end, and killing it


@asynccontextmanager
async def program(server: StdioServer) -> AsyncGenerator[TransportStreams]:
    """Starts the program; it has ended when the block has. Its stderr is thrown away.

    Raises OSError where it cannot be started. A line over the limit, or the program's end, closes the
    stream of its messages, which the SDK's session reports to whoever waits for an answer.
    """
    process = await asyncio.create_subprocess_exec(
        server.command,
        *server.args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**get_default_environment(), **server.env},
        cwd=server.cwd,
        start_new_session=True,
        limit=MAX_LINE_BYTES,
    )
    try:
        async with AsyncExitStack() as owned:
            heard, messages = anyio.create_memory_object_stream[SessionMessage | Exception](0)
            outgoing, said = anyio.create_memory_object_stream[SessionMessage](0)
            for stream in (heard, messages, outgoing, said):
                owned.push_async_callback(stream.aclose)
            tasks = [asyncio.create_task(_read(process, heard)), asyncio.create_task(_write(process, said))]
            try:
                yield messages, outgoing
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await asyncio.shield(asyncio.ensure_future(_end(process)))


async def _read(
    process: asyncio.subprocess.Process, heard: MemoryObjectSendStream[SessionMessage | Exception]
) -> None:
    assert process.stdout is not None
    async with heard:
        with suppress(ValueError, anyio.BrokenResourceError, anyio.ClosedResourceError):  # the line's limit
            while line := await process.stdout.readline():
                if line.strip():
                    await heard.send(_message(line))


def _message(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def _write(
    process: asyncio.subprocess.Process, said: MemoryObjectReceiveStream[SessionMessage]
) -> None:
    assert process.stdin is not None
    with suppress(OSError, anyio.ClosedResourceError):
        async with said:
            async for item in said:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Politely at first. The whole group is killed at last: a program may leave children behind."""
    assert process.stdin is not None
    process.stdin.close()
    for step in (None, signal.SIGTERM):
        if step is not None:
            _signal(process, step)
        with suppress(TimeoutError):
            await asyncio.wait_for(_drained(process), GRACE_SECONDS)
            break
    _signal(process, signal.SIGKILL)
    await process.wait()
    transport = process._transport  # type: ignore[attr-defined]  # its pipes, where a child still holds them
    transport.close()


async def _drained(process: asyncio.subprocess.Process) -> None:
    """Reads on, as a program that blocks on its output does not notice that its input has ended."""
    assert process.stdout is not None
    while await process.stdout.read(1 << 16):
        pass
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
