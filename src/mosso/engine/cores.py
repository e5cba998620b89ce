"""How many CPU cores this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Physical cores in our affinity mask, at most the container's CPU quota; at least 1."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return max(1, min(physical_cores(cpus, _TOPOLOGY), cpu_quota(_QUOTA)))


def physical_cores(cpus: set[int], topology: Path) -> int:
    """Cores behind these logical CPUs: hyperthreads of one core share its list of siblings."""
    siblings = set()
    for cpu in cpus:
        try:
            siblings.add((topology / f"cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return len(cpus)
    return len(siblings)


def cpu_quota(file: Path) -> int:
    """The cgroup v2 quota in whole cores, rounded up; very many where there is none."""
    try:
        quota, period = file.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max": unlimited
        return 1 << 16
