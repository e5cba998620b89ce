"""A real MCP server, made with the official SDK, that behaves or does not, by the tool that is called.

python mcp_program.py            over its standard streams
python mcp_program.py --http     over HTTP on a free port, which it prints
python mcp_program.py --mute     reads and says nothing
"""

import json
import os
import socket
import subprocess
import sys
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("program")


@server.tool(description="Adds two numbers.")
def add(a: int, b: int) -> str:
    return str(a + b)


@server.tool(name="wipe.all", description="Deletes everything.", annotations={"readOnlyHint": False})
def wipe() -> str:
    return "wiped"


@server.tool(description="Fails.")
def boom() -> str:
    raise ValueError("no such luck")


@server.tool(description="Never answers.")
def hang() -> str:
    time.sleep(3600)
    return ""


@server.tool(description="Ends the server, leaving a child behind.")
def die() -> str:
    os._exit(3)


@server.tool(description="Answers at great length.")
def long() -> str:
    return "x" * 300_000


@server.tool(description="Writes a line without an end.")
def flood() -> str:
    while True:
        os.write(1, b"x" * 65536)


@server.tool(description="Writes what is not the protocol.")
def lie() -> str:
    for _ in range(100):
        os.write(1, b'{"jsonrpc": "2.0", "id": 999, "result": "yours"}\nnot JSON\n[]\n')
    return "lied"


@server.tool(description="What the server sees of the environment.")
def environment() -> str:
    return json.dumps(dict(os.environ))


@server.tool(description="Starts a child and tells its id.")
def child() -> str:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    return str(process.pid)


def serve_http() -> None:
    import uvicorn

    app = server.streamable_http_app()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        print(sock.getsockname()[1], flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[sock])


if "--http" in sys.argv:
    serve_http()
elif "--mute" in sys.argv:
    while sys.stdin.readline():
        pass
else:
    server.run("stdio")
