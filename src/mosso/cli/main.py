"""`mosso`: the commands, and how an error reaches the person who typed one."""

from __future__ import annotations

import errno
import importlib
import io
import sys
from typing import Any

import click

from mosso import __version__
from mosso.core.errors import MossoError

# command → what the list of commands says of it; the rest of its help is in its own file
COMMANDS = {
    "serve": "Serve a model behind an OpenAI-compatible API.",
    "chat": "Talk to a model in the terminal.",
    "generate": "Run a file of requests: JSONL in, JSONL out.",
    "replay": "Run a request from a capsule again, and say where the answer differs.",
    "keys": "Make, list and take back the API keys of a server.",
    "pull": "Download a model from the Hugging Face hub.",
    "plan": "Show what a model needs in memory, before anything is loaded.",
    "random": "Write a checkpoint with random weights, for tests and benchmarks.",
    "check": "Examine a server: does it speak as its clients expect?",
    "bench": "Measure speed; prints the floor first and one JSON line last.",
    "eval": "Examine the demo model on fresh prompts.",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # where the output goes, or a temporary file


class LazyGroup(click.Group):
    """Imports a command's file when the command is used, and prints our own errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"mosso.cli.{cmd_name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if isinstance(
                stream, io.TextIOWrapper
            ):  # what no terminal can show or has sent becomes ? or U+FFFD
                stream.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except MossoError as error:
            click.echo(f"mosso: {error.message}", err=True)
            sys.exit(1)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            click.echo(f"mosso: cannot write: {error.strerror}", err=True)
            sys.exit(1)


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="mosso")
def main() -> None:
    """Run OpenAI's gpt-oss models: fast, dependable, and never losing a token of Harmony.

    MODEL is `demo` (a small gpt-oss that comes with the package), a folder that holds a checkpoint, or
    a model that `mosso pull` brought: `20b`, `120b` or its hub id.
    """
