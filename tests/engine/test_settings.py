"""Settings, the memory plan, core counting, messages: everything that needs no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosso.core.config import GPT_OSS_20B
from mosso.core.errors import CheckpointError, MossoError, OverloadedError, RequestError, UsageError
from mosso.core.requests import EngineLimits, EngineStats, FinishReason, Request, SamplingParams, TokenEvent
from mosso.engine import messages
from mosso.engine.cores import cpu_quota, physical_cores, usable_cores
from mosso.engine.memory import kv_budget
from mosso.engine.settings import GIB, MIB, EngineSettings
from mosso.model.kv_pages import cached_window_pages, divide, span, window_need
from mosso.scheduler import SchedulerConfig

BASE = EngineSettings(Path("model"), device="cpu").resolved(cuda=False)
CUDA = EngineSettings(Path("model"), device="cuda")


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"device": "tpu"}, "--device"),
        ({"preset": "fast"}, "--preset"),
        ({"dtype": "float16"}, "--dtype"),
        ({"kv_dtype": "int4"}, "--kv-dtype"),
        ({"kv_dtype": "float8"}, "--kv-dtype"),
        ({"dtype": "float32", "device": "cuda"}, "--dtype"),
        ({"experts": "expanded", "device": "cuda"}, "--experts"),
        ({"gpu_memory": 0}, "--gpu-memory"),
        ({"prefill_budget": 0}, "--prefill-budget"),
        ({"experts": "some"}, "--experts"),
        ({"page_size": 10}, "--page-size"),
        ({"token_budget": 0}, "--token-budget"),
        ({"token_budget": 63}, "--token-budget"),
        ({"max_rows": 0}, "--max-rows"),
        ({"max_context": 1}, "--max-context"),
        ({"kv_memory": 0}, "--kv-memory"),
        ({"max_waiting": 0}, "--max-waiting"),
        ({"max_slowdown": 0.9}, "--max-slowdown"),
        ({"background_rows": -1}, "--background-rows"),
        ({"threads": 0}, "--threads"),
        ({"threads": 100_000}, "--threads"),
    ],
)
def test_a_wrong_setting_is_named_by_its_flag(change, flag):
    with pytest.raises(UsageError, match=f"^{flag} must be .*it is {next(iter(change.values()))}"):
        replace(BASE, **change)


def test_defaults_that_depend_on_the_machine():
    assert BASE.num_threads == usable_cores() >= 1
    assert replace(BASE, threads=3).num_threads == 3
    assert BASE.dtype_name == "float32"
    assert CUDA.dtype_name == CUDA.kv_dtype_name == "bfloat16"
    assert replace(BASE, dtype="bfloat16").dtype_name == "bfloat16"
    assert replace(CUDA, kv_dtype="float8").kv_dtype_name == "float8"


def test_a_preset_fills_what_is_open_and_nothing_else():
    wished = EngineSettings(Path("model"), preset="latency", max_rows=100)
    on_cpu, on_cuda = wished.resolved(cuda=False), wished.resolved(cuda=True)
    assert (on_cpu.device, on_cuda.device) == ("cpu", "cuda")
    assert on_cpu.max_rows == on_cuda.max_rows == 100
    assert (on_cpu.token_budget, on_cuda.token_budget) == (256, 2048)
    assert on_cpu.prefill_budget < on_cuda.prefill_budget < on_cuda.token_budget
    assert on_cpu.kv_memory == 1024 * MIB
    assert on_cuda.kv_memory is None
    assert wished.resolved(cuda=True).resolved(cuda=True) == on_cuda
    large = replace(CUDA).resolved(cuda=True, weight_bytes=60 << 30)
    assert large.max_rows * 2 == CUDA.resolved(cuda=True, weight_bytes=14 << 30).max_rows == 256
    assert EngineSettings(Path("m"), max_rows=5000).resolved(cuda=False).token_budget == 5000
    assert EngineSettings(Path("m"), token_budget=8).resolved(cuda=False).max_rows == 8
    assert EngineSettings(Path("m"), token_budget=8).resolved(cuda=False).prefill_budget == 8


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("preset", ["latency", "balanced", "throughput"])
def test_every_preset_is_possible(device, preset):
    for size in (0, 60 << 30):
        found = EngineSettings(Path("m"), device=device, preset=preset).resolved(cuda=True, weight_bytes=size)
        assert found.rows <= found.prefill_budget <= found.budget


def test_large_weights_leave_fewer_rows_and_take_longer_steps_for_throughput():
    large = EngineSettings(Path("m"), preset="throughput").resolved(cuda=True, weight_bytes=60 << 30)
    assert (large.rows, large.budget, large.prefill_budget) == (256, 16_384, 16_384)
    large = EngineSettings(Path("m")).resolved(cuda=True, weight_bytes=60 << 30)
    assert (large.rows, large.budget, large.prefill_budget) == (128, 8192, 2048)


def test_where_weights_leave_little_every_preset_has_the_sizes_of_latency():
    for preset in ("latency", "balanced", "throughput"):
        wished = EngineSettings(Path("m"), preset=preset)
        found = wished.resolved(cuda=True, weight_bytes=13 * GIB, device_memory=17 * GIB - 1)
        assert (found.rows, found.budget, found.prefill_budget) == (64, 2048, 512)
        assert found.preset == preset
        enough = wished.resolved(cuda=True, weight_bytes=13 * GIB, device_memory=17 * GIB)
        assert enough == wished.resolved(cuda=True, weight_bytes=13 * GIB)
        assert wished.resolved(cuda=False, device_memory=GIB) == wished.resolved(cuda=False)
    asked = EngineSettings(Path("m"), max_rows=200, token_budget=4096)
    found = asked.resolved(cuda=True, weight_bytes=13 * GIB, device_memory=14 * GIB)
    assert (found.rows, found.budget) == (200, 4096)


def test_what_the_device_found_cannot_do_is_refused_by_name():
    with pytest.raises(
        UsageError, match=r"--kv-dtype must be auto or --dtype \(float32\) on the CPU; it is float8"
    ):
        EngineSettings(Path("m"), kv_dtype="float8").resolved(cuda=False)
    assert EngineSettings(Path("m"), kv_dtype="float8").resolved(cuda=True).kv_dtype == "float8"


def test_the_client_side_does_not_import_torch():
    code = "import sys, mosso.engine.client, mosso.engine.process, mosso.engine.memory; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "multiprocessing"} & set(found.stdout.split())


def test_hyperthreads_count_once(tmp_path):
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    assert physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 2}, tmp_path) == 1
    assert physical_cores({0, 7}, tmp_path) == 2, "unknown: every CPU counts"


@pytest.mark.parametrize(
    ("text", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 1 << 16)]
)
def test_the_containers_quota(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path / "cpu.max") == cores
    assert cpu_quota(tmp_path / "absent") == 1 << 16


@given(positions=st.integers(1, 300), page_size=st.sampled_from([8, 16, 32]), start=st.integers(0, 100))
def test_span_bounds_every_alignment(positions, page_size, start):
    touched = (start + positions - 1) // page_size - start // page_size + 1
    assert touched <= span(positions, page_size)
    worst = page_size - 1
    assert (worst + positions - 1) // page_size - worst // page_size + 1 == span(positions, page_size)


@given(
    window=st.integers(2, 200),
    page_size=st.sampled_from([8, 16, 32]),
    rows=st.lists(st.tuples(st.integers(0, 500), st.integers(1, 300)), min_size=1, max_size=20),
)
def test_every_row_can_always_run_on_the_window_group(window, page_size, rows):
    """Each row at any position computes its own count; together no more than the budget."""
    budget = max(len(rows), sum(count for _, count in rows))
    held = sum(
        (start + count - 1) // page_size - max(0, start - window + 1) // page_size + 1
        for start, count in rows
    )
    assert held <= window_need(window, page_size, len(rows), budget)


@given(
    memory=st.integers(1, 64_000),
    max_rows=st.sampled_from([1, 8, 64, 256]),
    page_size=st.sampled_from([16, 64]),
)
def test_the_budget_stays_within_memory_and_leaves_little(memory, max_rows, page_size):
    settings = replace(BASE, kv_memory=memory * MIB, max_rows=max_rows, page_size=page_size)
    need = window_need(128, page_size, max_rows, settings.token_budget)
    if settings.kv_memory < (need + 2) * page_size * 48 * 1024:  # two groups, 48 KiB a token in float32
        with pytest.raises(UsageError, match="--kv-memory"):
            kv_budget(GPT_OSS_20B, replace(settings, kv_memory=need * page_size * 48 * 1024))
        return
    budget = kv_budget(GPT_OSS_20B, settings)
    assert settings.kv_memory - 2 * (budget.full_page_bytes + budget.window_page_bytes) < budget.total_bytes
    assert budget.total_bytes <= settings.kv_memory
    assert budget.window_pages >= need
    assert budget.max_context == min(131_072, budget.full_tokens)
    SchedulerConfig(
        page_size, budget.full_pages, budget.window_pages, 128, max_rows, 1024, budget.max_context
    )


@given(
    memory=st.integers(0, 10**9),
    full=st.integers(1, 1000),
    window=st.integers(0, 1000),
    need=st.integers(0, 1000),
)
def test_pages_are_divided_to_the_last(memory, full, window, need):
    pages = divide(memory, full, window, need, most=10**9)
    assert pages.window == need + cached_window_pages(pages.full)
    if pages.full:
        assert pages.full * full + pages.window * window <= memory
    more = (pages.full + 2) * full + (need + cached_window_pages(pages.full + 2) + 1) * window
    assert more > memory


def test_no_more_pages_than_kernels_can_address():
    small = replace(GPT_OSS_20B, num_layers=2, num_kv_heads=1, head_dim=32, sliding=())
    budget = kv_budget(small, replace(CUDA, token_budget=1024, max_rows=64), 60 << 30)
    planes = [(pages + 1) * budget.page_size * 32 for pages in (budget.full_pages, budget.window_pages)]
    assert max(planes) < 1 << 31
    assert (planes[0] >> 20) == 2047  # nearly all


def test_large_pools_give_little_to_cached_windows():
    assert cached_window_pages(800) == 100
    assert cached_window_pages(2048) == 256
    assert cached_window_pages(150_000) < 150_000 // 50


def test_what_the_device_leaves_bounds_the_pages():
    cuda = replace(CUDA, token_budget=1024, max_rows=64)
    open_end, bounded = kv_budget(GPT_OSS_20B, cuda, 8 << 30), replace(cuda, kv_memory=4 << 30)
    assert kv_budget(GPT_OSS_20B, bounded, 8 << 30).full_tokens < open_end.full_tokens
    assert kv_budget(GPT_OSS_20B, bounded, 2 << 30).total_bytes <= 2 << 30
    with pytest.raises(UsageError, match=r"--gpu-memory leaves too little: 100 MiB is all taken"):
        kv_budget(GPT_OSS_20B, cuda, 100 << 20)
    with pytest.raises(UsageError, match=r"--gpu-memory leaves too little: 0 MiB"):
        kv_budget(GPT_OSS_20B, cuda, -5)


def test_bytes_a_token_of_20b():
    """24 KiB a token in BF16 over the 12 full layers, and as much over the 12 sliding ones."""
    cuda = replace(CUDA, token_budget=1024, max_rows=64, kv_memory=8192 * MIB)
    budget = kv_budget(GPT_OSS_20B, cuda)
    assert budget.full_page_bytes == budget.window_page_bytes == 16 * 24 * 1024
    assert budget.full_tokens > 300_000
    half = kv_budget(GPT_OSS_20B, replace(cuda, kv_dtype="float8"))
    assert 2 * half.full_page_bytes == budget.full_page_bytes
    assert half.full_tokens > 2 * budget.full_tokens
    twice = kv_budget(GPT_OSS_20B, replace(BASE, kv_memory=8192 * MIB))
    assert twice.full_page_bytes == 2 * budget.full_page_bytes


def test_what_does_not_fit_names_the_flag():
    with pytest.raises(UsageError, match=r"--kv-memory 64 MiB is all taken by the windows.*--max-rows 64"):
        kv_budget(GPT_OSS_20B, replace(BASE, kv_memory=64 * MIB))
    small = replace(BASE, kv_memory=4096 * MIB, max_context=100_000)
    with pytest.raises(
        UsageError, match=r"--kv-memory 4096 MiB holds \d+ tokens.*--max-context asks for 100000"
    ):
        kv_budget(GPT_OSS_20B, small)
    with pytest.raises(UsageError, match=r"--max-context 200000 is over the model's own limit, 131072"):
        kv_budget(GPT_OSS_20B, replace(BASE, kv_memory=65536 * MIB, max_context=200_000))
    assert kv_budget(GPT_OSS_20B, replace(small, max_context=4096)).max_context == 4096


@pytest.mark.parametrize(
    "message",
    [
        messages.Load(BASE),
        messages.Submit(Request("a", (1, 2), SamplingParams(max_tokens=1, stop_ids=frozenset([3])))),
        messages.Abort("a"),
        messages.Shutdown(),
        messages.Progress("weights", 1, 2),
        messages.Ready(EngineLimits(1, 2, 3, 4), ("note",)),
        messages.Batch((TokenEvent("a", (1,), finish=FinishReason.STOP),), EngineStats(finished={"stop": 1})),
    ],
)
def test_messages_travel(message):
    frame = messages.encode(message)
    (size,) = messages.HEADER.unpack(frame[: messages.HEADER.size])
    assert size == len(frame) - messages.HEADER.size
    assert messages.decode(frame[messages.HEADER.size :]) == message


@pytest.mark.parametrize(
    "error",
    [
        CheckpointError("damaged", file="f", tensor="t"),
        UsageError("no"),
        RequestError("wrong", param="p", code="c"),
        OverloadedError("full", retry_after=3.0),
    ],
)
def test_errors_travel_as_themselves(error: MossoError):
    frame = messages.encode(messages.Rejected("a", error))
    found = messages.decode(frame[messages.HEADER.size :])
    assert isinstance(found, messages.Rejected)
    assert type(found.error) is type(error)
    assert (str(found.error), vars(found.error)) == (str(error), vars(error))
