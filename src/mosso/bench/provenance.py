"""Where a figure comes from: without it a table cannot be read next month."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mosso import __version__


def provenance() -> dict[str, Any]:
    """Date, machine, versions, commit and the command that runs."""
    cuda = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "mosso": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "command": shlex.join(["mosso", *_without_key(sys.argv[1:])]),
    }


def _without_key(arguments: list[str]) -> list[str]:
    """The value of --api-key is nobody's to read next month."""
    hidden = [re.sub(r"^(--api-key=).*", r"\1...", argument, flags=re.DOTALL) for argument in arguments]
    for place, argument in enumerate(arguments[:-1]):
        if argument == "--api-key":
            hidden[place + 1] = "..."
    return hidden


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this file lies in, marked if it was changed; None without git or a checkout."""
    folder = Path(__file__).parent
    try:
        asked = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude", "*"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
