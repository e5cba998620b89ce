"""Where the MCP server program is, and how long a test waits for it."""

from pathlib import Path

from mosso.tools.mcp import Limits

PROGRAM = str(Path(__file__).with_name("mcp_program.py"))
PATIENT = Limits(connect_seconds=120, call_seconds=120)  # a busy machine may take long to start Python
