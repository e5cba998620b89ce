"""What a profiler's trace says of the GPU: where its time goes and where it waits."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
GRAPH = 16  # kernels of one launch from which it is a step's graph and not a small kernel beside it


@dataclass(frozen=True, slots=True)
class Kernel:
    """One thing the device did; microseconds."""

    name: str
    start: float
    end: float
    launch: int  # what one call of the host started shares this number, a graph's kernels too


@dataclass(frozen=True, slots=True)
class KernelTime:
    """All kernels of one name, in microseconds a step.

    `exposed` is what the timeline grew by: kernels overlap, and these sum up to the whole, gaps included.
    """

    name: str
    count: float
    exposed: float
    duration: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Steps on the device; times in microseconds. A step's graph begins where its first kernel starts."""

    step: float  # from graph to graph, median
    between: float  # from a graph's last kernel to the next one's first, median: copies and small kernels too
    idle: float  # of that, nothing ran
    kernels: tuple[KernelTime, ...]

    @property
    def gap(self) -> float:
        """The share of a step in which the device waits between two graphs."""
        return self.idle / self.step if self.step else 0.0


def read_trace(file: Path) -> Trace:
    """Of a file that torch's profiler wrote; it compresses those that end in .gz."""
    data = file.read_bytes()
    events = json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)["traceEvents"]
    return analyse([_kernel(event) for event in events if event.get("cat") in ON_DEVICE])


def _kernel(event: dict[str, Any]) -> Kernel:
    start = float(event["ts"])
    launch = int(event.get("args", {}).get("correlation", 0))
    return Kernel(event["name"], start, start + float(event["dur"]), launch)


def analyse(kernels: Sequence[Kernel]) -> Trace:
    graphs = _graphs(kernels) or _between_copies(kernels)
    pairs = list(pairwise(graphs))
    if not pairs:
        return Trace(0.0, 0.0, 0.0, _by_name(kernels, 1))
    step = median(after[0].start - before[0].start for before, after in pairs)
    ends = [(max(kernel.end for kernel in before), after[0].start) for before, after in pairs]
    whole = [k for k in kernels if graphs[0][0].start <= k.start < graphs[-1][0].start]
    return Trace(
        step=step,
        between=median(max(0.0, start - end) for end, start in ends),
        idle=median(max(0.0, start - end - _busy(kernels, end, start)) for end, start in ends),
        kernels=_by_name(whole, len(pairs)),
    )


def _graphs(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """The kernels of each graph launch, in order."""
    launches: defaultdict[int, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        launches[kernel.launch].append(kernel)
    graphs = [sorted(group, key=lambda k: k.start) for group in launches.values() if len(group) >= GRAPH]
    return sorted(graphs, key=lambda group: group[0].start)


def _between_copies(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """Where launches do not tell graphs apart: what runs from one copy of inputs to the next."""
    steps: list[list[Kernel]] = []
    for kernel in sorted(kernels, key=lambda k: k.start):
        if "HtoD" in kernel.name:
            steps.append([])
        elif steps and not kernel.name.startswith("Mem"):
            steps[-1].append(kernel)
    return [step for step in steps if len(step) >= GRAPH]


def _busy(kernels: Sequence[Kernel], start: float, end: float) -> float:
    """Microseconds of [start, end] in which something ran."""
    busy, last = 0.0, start
    for kernel in sorted(kernels, key=lambda k: k.start):
        first, until = max(kernel.start, last), min(kernel.end, end)
        if until > first:
            busy += until - first
            last = until
    return busy


def _by_name(kernels: Sequence[Kernel], steps: int) -> tuple[KernelTime, ...]:
    """Most exposed first."""
    exposed: defaultdict[str, float] = defaultdict(float)
    duration: defaultdict[str, float] = defaultdict(float)
    count: defaultdict[str, int] = defaultdict(int)
    ordered = sorted(kernels, key=lambda k: k.end)
    last = min((k.start for k in ordered), default=0.0)
    for kernel in ordered:
        name = short(kernel.name)
        exposed[name] += kernel.end - last
        duration[name] += kernel.end - kernel.start
        count[name] += 1
        last = kernel.end
    times = [KernelTime(n, count[n] / steps, exposed[n] / steps, duration[n] / steps) for n in count]
    return tuple(sorted(times, key=lambda time: -time.exposed))


def short(name: str) -> str:
    """A kernel's name without the types and arguments that C++ adds."""
    return re.sub(r"[<(].*", "", name.removeprefix("void "))[:60] or name[:60]
