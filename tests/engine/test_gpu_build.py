"""The GPU engine on a pretended device: what is measured, what is left for pages, what is said."""

from __future__ import annotations

import contextlib
import queue
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no build for this system")

from mosso.checkpoint import open_checkpoint
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B
from mosso.core.errors import UsageError
from mosso.engine import gpu_build
from mosso.engine.build import build_loop
from mosso.engine.gpu_graphs import _captured
from mosso.engine.gpu_memory import DeviceMemory, LastingMemory, bound_bytes
from mosso.engine.memory import kv_budget, kv_page_bytes
from mosso.engine.settings import EngineSettings
from mosso.kernels.gpu.launch import CHIPS
from mosso.model.gpu_loading import load_gpu_weights
from mosso.model.gpu_operations import TWINS
from mosso.model.gpu_pieces import Between
from mosso.model.gpu_plan import (
    CONTEXT_BYTES,
    WORKSPACE_SLACK,
    graphs_bytes,
    late_graphs_bytes,
    logits_bytes,
)
from mosso.model.paged import PagedKV

GIB = 1 << 30
CPU = torch.device("cpu")
STEP = 123 << 20  # bytes that a step is said to take
LOADED = 2 * GIB  # and the weights
BEFORE = 1 * GIB  # and torch held before there was an engine


class Graph:
    def replay(self) -> None:
        pass

    def capture_begin(self, *_: object, **__: object) -> None:
        pass

    def capture_end(self) -> None:
        pass


@pytest.fixture
def pretended(monkeypatch):
    """A device of 80 GiB, of which 70 are free at first; returns the shares that torch was allowed."""
    allowed: list[float] = []
    held = BEFORE  # what torch has reserved

    def synchronize(*_):  # a step was run, or some of it
        nonlocal held
        held = BEFORE + LOADED + STEP

    def empty_cache():
        nonlocal held
        held = BEFORE + LOADED

    fakes = {
        "mem_get_info": lambda device: (70 * GIB - (held - BEFORE), 80 * GIB),
        "memory_reserved": lambda device: held,
        "synchronize": synchronize,
        "empty_cache": empty_cache,
        "set_per_process_memory_fraction": lambda share, device: allowed.append(share),
        "CUDAGraph": Graph,
        "graph": lambda *_, **__: contextlib.nullcontext(),
        "graph_pool_handle": lambda: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(gpu_build, "TRITON", TWINS)
    return allowed


def build(model: Path, **changes: object):
    wishes = {
        "device": "cuda",
        "max_rows": 8,
        "token_budget": 64,
        "gpu_memory": 8.0 * GIB,
        "max_context": 256,
    }
    settings = EngineSettings(model, **(wishes | changes)).resolved(cuda=True)
    memory = DeviceMemory.open(CPU, settings.gpu_memory)
    with open_checkpoint(model) as checkpoint:
        weights = load_gpu_weights(checkpoint, CPU)
        builder = gpu_build._Builder(checkpoint.config, settings, CPU, memory, weights)
    return builder, settings


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "float8"])
def test_pages_get_what_everything_else_leaves(model, pretended, kv_dtype):
    small = build(model, kv_dtype=kv_dtype, kv_memory=4 << 20)[0]
    stages = []
    engine = small.build(stages.append, "compiled")
    assert [step.stage for step in stages] == ["warming up", "capturing graphs"]
    assert engine.budget.max_context == 256
    assert engine.budget.total_bytes <= 4 << 20
    assert engine.notes[0] == "compiled"
    assert "8,192 MiB at most" in engine.notes[1]
    assert f"workspace {STEP >> 20:,}" in engine.notes[1]
    other = CONTEXT_BYTES + late_graphs_bytes(small.config, 8, 64, deterministic=False)
    assert pretended == [pytest.approx((8 * GIB - other) / (80 * GIB))]


def test_without_kv_memory_pages_take_all_that_is_left(model, pretended, monkeypatch):
    builder, settings = build(model)
    asked = []

    def divide(config, settings, left):
        asked.append(left)
        return kv_budget(config, settings, 1 << 22)

    monkeypatch.setattr(gpu_build, "kv_budget", divide)
    builder.build(lambda _: None, "")
    rest = (STEP + WORKSPACE_SLACK, graphs_bytes(builder.config, 8, 64))
    scratch = sum(kv_page_bytes(builder.config, settings))
    assert asked == [8 * GIB - BEFORE - LOADED - CONTEXT_BYTES - sum(rest) - scratch]


def test_what_a_step_was_measured_to_hold_is_left_to_steps(model, pretended, monkeypatch):
    """Neither do pages take it, nor is it given back."""
    builder, _ = build(model)
    happened = []

    @contextlib.contextmanager
    def pages(_):
        happened.append("apart")
        yield
        happened.append("together")

    def noted(name, function):
        def call(*args):
            happened.append(name)
            return function(*args)

        return call

    monkeypatch.setattr(LastingMemory, "pages", pages)
    monkeypatch.setattr(torch.cuda, "empty_cache", noted("given back", torch.cuda.empty_cache))
    monkeypatch.setattr(PagedKV, "allocate", noted("pages", PagedKV.allocate))
    monkeypatch.setattr(Between, "allocate", noted("between", Between.allocate))
    measure = gpu_build._Builder.measure_step
    monkeypatch.setattr(gpu_build._Builder, "measure_step", noted("measured", measure))
    builder.build(lambda _: None, "")
    lasting = ["apart", "pages", "together", "apart", "between", "together"]
    assert happened == ["pages", "measured", "given back", *lasting]


def test_a_step_is_measured_with_the_shaped_logits_behind_it(model, pretended, monkeypatch):
    builder, _ = build(model)
    empty, held = torch.empty, []

    def noted(*size, **options):
        if options.get("dtype") is torch.uint8:  # no tensor that is computed with
            held.append(*size)
        return empty(*size, **options)

    monkeypatch.setattr(torch, "empty", noted)
    builder.build(lambda _: None, "")
    logits = logits_bytes(builder.config, builder.settings.rows)
    assert held == [*logits] * 3, "behind the first, smaller step, and both full ones"


def test_a_capture_that_fails_says_what_failed_first(pretended, monkeypatch):
    def run():
        raise torch.OutOfMemoryError("no memory")

    def invalidated(_):
        raise RuntimeError("the capture was invalidated")

    monkeypatch.setattr(Graph, "capture_end", invalidated)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        _captured(LastingMemory(CPU), run)
    with pytest.raises(RuntimeError, match="invalidated"):
        _captured(LastingMemory(CPU), lambda: None)


def test_a_share_is_of_the_device_and_bytes_are_bytes(pretended):
    assert bound_bytes(0.5, 80 * GIB) == 40 * GIB
    assert bound_bytes(1, 80 * GIB) == 80 * GIB
    assert bound_bytes(16.0 * GIB, 80 * GIB) == 16 * GIB
    assert bound_bytes(900.0 * GIB, 80 * GIB) == 80 * GIB
    with pytest.raises(UsageError, match=r"--gpu-memory asks for 76,186 MiB of cpu, which has 71,680 of its"):
        DeviceMemory.open(CPU, 0.93)


def test_what_torch_holds_is_there_to_be_asked_for(pretended):
    assert DeviceMemory.open(CPU, 71.2 * GIB).free_at_start == 70 * GIB + BEFORE


def test_too_little_for_pages_is_said(model, pretended):
    builder, _ = build(model, gpu_memory=float(LOADED + CONTEXT_BYTES + (100 << 20)))
    with pytest.raises(UsageError, match=r"--gpu-memory leaves too little"):
        builder.build(lambda _: None, "")


@pytest.mark.parametrize(("total", "rows"), [(80 * GIB, 256), (3 * GIB, 64)])
def test_sizes_are_those_for_what_may_be_taken_of_the_device(model, monkeypatch, total, rows):
    built = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (total, total))
    monkeypatch.setattr(gpu_build, "build_gpu_engine", lambda _, settings, *__: built.append(settings))
    with pytest.raises(AttributeError):  # there is no engine
        build_loop(EngineSettings(model), queue.SimpleQueue(), lambda _: None)
    assert [settings.rows for settings in built] == [rows]


@pytest.mark.parametrize("arch", CHIPS)
def test_float8_is_refused_on_chips_whose_kernels_have_none(model, pretended, monkeypatch, arch):
    """Before anything is loaded: for sm_80 and sm_86 they do not compile."""

    def load(*_):
        raise InterruptedError

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(gpu_build, "chip", lambda device: CHIPS[arch])
    monkeypatch.setattr(gpu_build, "_load", load)
    _, settings = build(model, kv_dtype="float8")
    old = arch in ("sm_80", "sm_86")
    said = rf"--kv-dtype float8 needs a GPU of sm_89 or newer; this one is {arch}" if old else None
    with (
        open_checkpoint(model) as checkpoint,
        pytest.raises(UsageError if old else InterruptedError, match=said),
    ):
        gpu_build.build_gpu_engine(checkpoint, settings, lambda _: None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_experts": 6, "experts_per_token": 2}, "experts to be a power of two, not 6"),
        ({"head_dim": 48}, "attention head to be a power of two from 16 to 256, not 48"),
        ({"head_dim": 8}, "from 16 to 256, not 8"),
        ({"num_heads": 6, "num_kv_heads": 2}, "key/value head to be a power of two from 1 to 64, not 3"),
        ({"num_heads": 128, "num_kv_heads": 1}, "from 1 to 64, not 128"),
    ],
)
def test_a_shape_that_no_kernel_has_is_refused_before_anything_is_loaded(change, said):
    for config in (GPT_OSS_20B, GPT_OSS_120B):
        gpu_build.require_shape(config)
    checkpoint = SimpleNamespace(config=replace(GPT_OSS_20B, **change))
    with pytest.raises(UsageError, match=said):
        gpu_build.build_gpu_engine(checkpoint, None, lambda _: None)
