"""The command line: the composition root, the only room that may import every other.

Each command lives in its own file and imports what is heavy only when it runs, so that `mosso --help` and the
server's own process stay light.
"""

from mosso.cli.main import main

__all__ = ["main"]
