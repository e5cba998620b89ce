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


def session_of(pid: int) -> list[int]:
    """The living processes of the session that process `pid` began, itself among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == pid and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def _is_engine(pid: int) -> bool:
    with suppress(OSError):  # and so do processes
        return b"mosso.engine.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
