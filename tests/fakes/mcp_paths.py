"""Where the MCP server program is."""

from pathlib import Path

PROGRAM = str(Path(__file__).with_name("mcp_program.py"))
