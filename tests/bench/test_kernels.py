"""How cases are found, grouped, timed and told of; the timing itself needs a GPU."""

from __future__ import annotations

import re
import threading
import weakref
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from mosso.bench.kernels import timing
from mosso.bench.kernels.case import Case
from mosso.bench.kernels.timing import GROUP, Timed, all_cases, run_cases
from mosso.cli.bench_kernels import print_rows
from mosso.cli.main import main
from mosso.model.gpu_operations import TRITON, GpuOperations


def nothing() -> None:
    pass


def case(index: int, run=nothing) -> Case:
    return Case(f"case {index}", 2e-6, run)


def prepare(one: Case) -> None:
    one.run()


def measured(one: Case) -> tuple[float, bool]:
    one.run()
    return 4e-6, True


def test_each_case_is_timed_once_in_order() -> None:
    rows = list(run_cases((case(i) for i in range(40)), prepare, measured, lambda: 0))
    assert [row.name for row in rows] == [f"case {i}" for i in range(40)]
    assert {row.share for row in rows} == {0.5}


def test_a_failure_is_told_and_the_others_go_on() -> None:
    def prepared(one: Case) -> None:
        if one.name == "case 1":
            raise ValueError("out of resource: shared memory\nand a long dump")

    def breaks_later(one: Case) -> tuple[float, bool]:
        if one.name == "case 2":
            raise RuntimeError("a launch failed")
        return measured(one)

    rows = list(run_cases(map(case, range(4)), prepared, breaks_later, lambda: 0))
    assert [row.error for row in rows] == [
        None,
        "ValueError: out of resource: shared memory",
        "RuntimeError: a launch failed",
        None,
    ]
    assert rows[1].share is None


def test_a_case_is_let_go_once_it_was_timed() -> None:
    class Tensors:
        pass

    alive: list[weakref.ref] = []

    def made(index: int) -> Case:
        held = Tensors()
        alive.append(weakref.ref(held))

        def run() -> object:
            return held

        return case(index, run)

    seen = []
    for _ in run_cases((made(i) for i in range(3 * GROUP)), prepare, measured, lambda: 0):
        seen.append(sum(ref() is not None for ref in alive))
    assert max(seen) <= GROUP
    assert seen[GROUP - 1] == 1  # the one just timed


def test_large_cases_are_not_held_together() -> None:
    held, most = [0], [0]

    def made(index: int) -> Case:
        held[0] += 1
        return case(index)

    def forget(one: Case) -> tuple[float, bool]:
        most[0] = max(most[0], held[0])
        held[0] -= 1
        return 1e-6, True

    list(run_cases((made(i) for i in range(9)), prepare, forget, lambda: held[0] * timing.GROUP_BYTES // 2))
    assert most[0] == 3


def test_the_cases_of_a_group_are_prepared_at_once() -> None:
    together = threading.Barrier(GROUP, timeout=60)

    def waits(one: Case) -> None:
        together.wait()

    rows = list(run_cases((case(i) for i in range(GROUP)), waits, measured, lambda: 0))
    assert all(row.error is None for row in rows)


def test_rows_say_what_was_measured(capsys) -> None:
    print_rows([Timed("a", 2e-6, 4e-6), Timed("b", 2e-6, 4e-6, graph=False), Timed("c", 1e-6, error="no")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["a", "4.0", "2.0", "50%"]
    assert "no graph" in lines[2]
    assert "failed: no" in lines[3]


def test_the_modules_that_are_asked_are_there(monkeypatch) -> None:
    """Each has both functions, and its cases are named after it."""

    class Fake:
        @staticmethod
        def cases():
            yield case(1)

        @staticmethod
        def sweep():
            yield case(2)

    monkeypatch.setattr(timing.importlib, "import_module", lambda name: Fake)
    names = [one.name for one in all_cases(sweep=False)]
    assert names == [f"{module}: case 1" for module in timing.MODULES]
    assert {one.name[-1] for one in all_cases(sweep=True)} == {"2"}
    monkeypatch.undo()
    for name in timing.MODULES:
        module = timing.importlib.import_module(f"mosso.bench.kernels.{name}")
        assert callable(module.cases)
        assert callable(module.sweep)


def test_every_kernel_of_the_engine_has_a_case() -> None:
    """By the calls that stand in the modules; what they launch needs a GPU."""
    files = [Path(timing.__file__).parent / f"{name}.py" for name in timing.MODULES]
    calls = set(re.findall(r"\b(\w+)\(", "".join(file.read_text() for file in files)))
    kernels = {field.name for field in fields(GpuOperations) if callable(getattr(TRITON, field.name))}
    assert kernels - {"linear"} <= calls  # torch's own


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what there is without a GPU")
def test_without_a_gpu_it_says_so() -> None:
    result = CliRunner().invoke(main, ["bench", "kernels", "--only", "x"])
    assert result.exit_code == 1
    assert "no CUDA device" in result.stderr


def test_a_broken_pattern_is_refused() -> None:
    result = CliRunner().invoke(main, ["bench", "kernels", "--only", "("])
    assert result.exit_code == 2
    assert "regular expression" in result.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_case_is_timed_as_a_graph() -> None:
    timer = timing.GpuTimer()
    x = torch.ones(1 << 20, device="cuda")
    (row,) = run_cases(
        [Case("double", 1e-9, lambda: x * 2)], timer.prepare, timer.measure, torch.cuda.memory_allocated
    )
    assert row.graph
    assert row.error is None
    assert row.seconds is not None
    assert 0 < row.seconds < 1
