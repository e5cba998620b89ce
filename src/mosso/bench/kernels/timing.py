"""Runs the cases of kernels on the GPU, a group at a time: compiled together, timed one by one, forgotten."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import torch

from mosso.bench.kernels.case import Case

MODULES = ("attention", "dense", "moe", "head")
GROUP = 16  # cases that compile at once
GROUP_BYTES = 24 << 30  # of device memory that a group may hold
FLUSH_BYTES = 256 << 20  # more than any L2 cache: writing them leaves nothing else in it
REPLAYS = 31
LONG = 0.02  # seconds of one run from which a few replays tell enough
FEW_REPLAYS = 9


@dataclass(frozen=True, slots=True)
class Timed:
    """A case and the median of its runs in seconds, or why there is none."""

    name: str
    floor: float
    seconds: float | None = None
    graph: bool = True  # replayed as a CUDA graph; else launched by the host each time
    error: str | None = None

    @property
    def share(self) -> float | None:
        return self.floor / self.seconds if self.seconds else None


Prepare = Callable[[Case], None]
Measure = Callable[[Case], tuple[float, bool]]  # → seconds, whether as a graph


def all_cases(*, sweep: bool) -> Iterator[Case]:
    """Of every module, named after it. Each is made when it is asked for, as its tensors may be large."""
    for name in MODULES:
        module = importlib.import_module(f"mosso.bench.kernels.{name}")
        for case in module.sweep() if sweep else module.cases():
            yield Case(f"{name}: {case.name}", case.floor, case.run)


def run_cases(
    cases: Iterable[Case], prepare: Prepare, measure: Measure, allocated: Callable[[], int]
) -> Iterator[Timed]:
    """Prepare the cases of a group at once, then measure them one after another.

    `prepare` may run in several threads. A case that fails is reported, not raised.
    """
    for group in _groups(cases, allocated):
        with ThreadPoolExecutor(len(group)) as pool:
            errors = list(pool.map(lambda case: _failure(lambda: prepare(case)), group))
        while group:
            case, error = group.pop(0), errors.pop(0)
            if error is not None:
                yield Timed(case.name, case.floor, error=error)
                continue
            try:
                seconds, graph = measure(case)
            except Exception as failure:
                yield Timed(case.name, case.floor, error=describe(failure))
            else:
                yield Timed(case.name, case.floor, seconds, graph)
            del case


def _groups(cases: Iterable[Case], allocated: Callable[[], int]) -> Iterator[list[Case]]:
    group: list[Case] = []
    for case in cases:
        group.append(case)
        if len(group) == GROUP or allocated() > GROUP_BYTES:
            del case
            yield group
            group = []
    if group:
        yield group


def _failure(action: Callable[[], None]) -> str | None:
    try:
        action()
    except Exception as error:
        return describe(error)
    return None


def describe(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


class GpuTimer:
    """Times runs of cases on the current device, each with a cold L2 cache."""

    def __init__(self) -> None:
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    @torch.inference_mode()
    def prepare(self, case: Case) -> None:
        case.run()

    @torch.inference_mode()
    def measure(self, case: Case) -> tuple[float, bool]:
        case.run()
        torch.cuda.synchronize()
        graph = self._capture(case)
        run = case.run if graph is None else graph.replay
        replays = FEW_REPLAYS if self._once(run) > LONG else REPLAYS
        seconds = median(self._once(run) for _ in range(replays))
        return seconds, graph is not None

    def _capture(self, case: Case) -> torch.cuda.CUDAGraph | None:
        """None where the case does what a graph cannot hold."""
        graph = torch.cuda.CUDAGraph()
        gc.collect()
        gc.disable()  # an old graph that is collected while this one is captured would spoil it
        try:
            with torch.cuda.graph(graph):
                case.run()
        except RuntimeError:
            torch.cuda.synchronize()
            return None
        finally:
            gc.enable()
        graph.replay()
        return graph

    def _once(self, run: Callable[[], object]) -> float:
        """The flush keeps the GPU busy while the host launches, so that launching is not in the time."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def floor(self) -> float:
        """What a run of next to nothing takes: no case is measured below it."""
        tiny = torch.empty(1, device="cuda")
        return self.measure(Case("nothing", 0.0, tiny.zero_))[0]
