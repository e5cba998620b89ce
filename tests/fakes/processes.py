"""Which processes are engines, for tests that kill them or count them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def engines_of(pid: int) -> list[int]:
    """The children of process `pid` that are engines; empty where there is no /proc."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # threads end when they like
            found += [child for child in map(int, children.read_text().split()) if _is_engine(child)]
    return found


def _is_engine(pid: int) -> bool:
    with suppress(OSError):  # and so do processes
        return b"mosso.engine.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
