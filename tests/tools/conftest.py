"""A real MCP server program, over its standard streams and over HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from mcp_paths import PROGRAM


@pytest.fixture(scope="module")
def mcp_url() -> Iterator[str]:
    """The program behind a port of this machine."""
    with subprocess.Popen([sys.executable, PROGRAM, "--http"], stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline().strip()
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()
