"""The flags that give a model tools which this side runs, and the tools that they ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mosso.core.errors import UsageError

if TYPE_CHECKING:
    from mosso.tools.mcp import Servers
    from mosso.tools.python_tool import PythonTool

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

mcp_config_option = click.option(
    "--mcp-config", type=_FILE, help='JSON file of MCP servers: {"mcpServers": {LABEL: {…}}}.'
)


def tool_options(command: F) -> F:
    """Adds the flags to a command; `take_tools` reads them."""
    options = (
        mcp_config_option,
        click.option(
            "--mcp-allow-url",
            multiple=True,
            metavar="URL",
            help="Requests may name MCP servers at or below this URL; default: none.",
        ),
        click.option(
            "--python-tool",
            is_flag=True,
            help="The model may run Python code, in a sandbox (code_interpreter of /v1/responses).",
        ),
        click.option(
            "--browser-tool",
            metavar="URL",
            help="The model may search with the SearXNG server at URL, and read the web (web_search).",
        ),
        click.option(
            "--browser-allow-private",
            is_flag=True,
            help="The browser may open addresses of this machine and its network, and any port.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class ToolFlags:
    mcp_config: Path | None = None
    mcp_allow_url: tuple[str, ...] = ()
    python: bool = False
    browser: str | None = None
    browser_allow_private: bool = False


def take_tools(options: dict[str, Any]) -> ToolFlags:
    """The flags out of a command's options; UsageError for what they cannot mean."""
    from mosso.tools.mcp_config import is_http

    flags = ToolFlags(
        options.pop("mcp_config"),
        options.pop("mcp_allow_url"),
        options.pop("python_tool"),
        options.pop("browser_tool"),
        options.pop("browser_allow_private"),
    )
    if flags.browser is not None and not is_http(flags.browser):
        raise UsageError(f"--browser-tool {flags.browser}: it must start with http:// or https://")
    if flags.browser_allow_private and flags.browser is None:
        raise UsageError("--browser-allow-private goes with --browser-tool")
    for url in flags.mcp_allow_url:
        if not is_http(url):
            raise UsageError(f"--mcp-allow-url {url}: it must start with http:// or https://")
    return flags


@asynccontextmanager
async def opened_tools(flags: ToolFlags) -> AsyncIterator[Any]:
    """What the flags allow, as api's Tools; connections end with the block. UsageError for a tool that this
    machine cannot give."""
    from mosso.api.responses_toolset import Tools

    python = await _python() if flags.python else None
    async with AsyncExitStack() as owned:
        servers = _servers(flags)
        if servers is not None:
            owned.push_async_callback(servers.close)
        browser = None
        if flags.browser is not None:
            from mosso.tools.browser import Browser
            from mosso.tools.web import WebBackend

            backend = WebBackend(flags.browser, allow_private=flags.browser_allow_private)
            owned.push_async_callback(backend.close)
            browser = Browser(backend)
        yield Tools(servers=servers, python=python, browser=browser)


def _servers(flags: ToolFlags) -> Servers | None:
    from mosso.tools.mcp import Servers
    from mosso.tools.mcp_config import read_config

    if flags.mcp_config is None and not flags.mcp_allow_url:
        return None
    return Servers({} if flags.mcp_config is None else read_config(flags.mcp_config), flags.mcp_allow_url)


async def _python() -> PythonTool:
    from mosso.tools.python_tool import PythonTool
    from mosso.tools.sandbox import Sandbox

    sandbox = Sandbox()
    await sandbox.check()
    return PythonTool(sandbox)
