"""A trace made by hand: where the time goes and where the GPU waits is known."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mosso.bench.trace import Kernel, analyse, read_trace, short

KERNELS = 20


def step(at: float, launch: int) -> list[Kernel]:
    """A copy of 2 us, a wait of 1, a graph of 20 kernels of 5 us that start every 4, a copy back of 3."""
    graph = [
        Kernel(f"void part{i % 2}<int>(float*)", at + 3 + 4 * i, at + 8 + 4 * i, launch)
        for i in range(KERNELS)
    ]
    return [
        Kernel("Memcpy HtoD (Pinned -> Device)", at, at + 2, launch + 1),
        *graph,
        Kernel("Memcpy DtoH (Device -> Pinned)", at + 84, at + 87, launch + 2),
    ]


def steps(period: float) -> list[Kernel]:
    return [kernel for n in range(5) for kernel in step(n * period, 10 * n + 1)]


def test_gaps_are_what_lies_between_graphs_without_what_runs_there() -> None:
    """A graph ends 84 us after its step began, the next begins 3 us into its own."""
    trace = analyse(steps(100.0))
    assert trace.step == pytest.approx(100.0)
    assert trace.between == pytest.approx(19.0)
    assert trace.idle == pytest.approx(19.0 - 3 - 2)
    assert trace.gap == pytest.approx(0.14)


def test_exposed_time_sums_up_to_the_step() -> None:
    trace = analyse(steps(100.0))
    by_name = {kernel.name: kernel for kernel in trace.kernels}
    assert set(by_name) == {"part0", "part1", "Memcpy HtoD ", "Memcpy DtoH "}
    assert sum(kernel.exposed for kernel in trace.kernels) == pytest.approx(100.0, rel=0.05)
    assert by_name["part1"].exposed == pytest.approx(40.0)
    assert by_name["part1"].duration == pytest.approx(50.0)
    assert by_name["part1"].count == KERNELS / 2


def test_overlapping_steps_have_no_gap() -> None:
    assert analyse(steps(80.0)).gap == 0.0


def test_where_launches_tell_nothing_the_copies_of_inputs_do() -> None:
    """A profiler may number each kernel of a graph apart."""
    apart = [replace(kernel, launch=index) for index, kernel in enumerate(steps(100.0))]
    assert analyse(apart) == analyse(steps(100.0))


def test_a_trace_without_graphs_has_kernels_only() -> None:
    trace = analyse([Kernel("a", 0, 1, 1), Kernel("a", 5, 6, 2)])
    assert (trace.step, trace.gap) == (0.0, 0.0)
    assert trace.kernels[0].exposed == 6


def test_the_profilers_file_is_read(tmp_path) -> None:
    events = [
        {"cat": "cpu_op", "name": "aten::add", "ts": 0, "dur": 9},
        {"ph": "M", "name": "process_name"},
        *(
            {"cat": "kernel", "name": k.name, "ts": k.start, "dur": k.end - k.start}
            | {"args": {"correlation": k.launch}}
            for k in steps(100.0)
        ),
    ]
    file = tmp_path / "trace.json"
    file.write_text(json.dumps({"traceEvents": events}))
    assert read_trace(file) == analyse(steps(100.0))


def test_names_lose_their_types() -> None:
    assert short("void at::native::fill<float, 4>(int)") == "at::native::fill"
    assert short("_decode_kernel") == "_decode_kernel"
    assert short("(anonymous)") == "(anonymous)"
