"""The memory plan against what loading really takes and against the published figures."""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.config import ExpertsFormat
from mosso.checkpoint.random_weights import TINY, write_random
from mosso.checkpoint.schema import expected_tensors
from mosso.cli.plan_command import DEVICE_MEMORY
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B
from mosso.core.errors import UsageError
from mosso.engine.memory import kv_budget
from mosso.engine.settings import EngineSettings
from mosso.model.gpu_plan import packed_bytes
from mosso.model.kv_pages import window_need
from mosso.model.loading import load_weights
from mosso.model.paged import kv_bytes_per_page
from mosso.model.plan import Dtype, format_bytes, format_plan, plan_memory

GIB = 1 << 30


def tensor_bytes(value: Any) -> int:
    """Bytes of every tensor within a tree of dataclasses and tuples."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, tuple):
        return sum(map(tensor_bytes, value))
    return sum(tensor_bytes(getattr(value, f.name)) for f in fields(value)) if is_dataclass(value) else 0


@pytest.mark.parametrize(
    ("stored", "dtype", "storage", "experts"),
    [
        ("mxfp4", "bfloat16", "bfloat16", "packed"),
        ("mxfp4", "float32", "bfloat16", "packed"),
        ("mxfp4", "float32", "float32", "packed"),
        ("mxfp4", "float32", "float32", "expanded"),
        ("mxfp4", "float32", "bfloat16", "expanded"),
        ("bf16", "bfloat16", "bfloat16", "expanded"),
        ("bf16", "float32", "float32", "expanded"),
    ],
)
def test_weights_are_planned_to_the_byte(
    tmp_path: Path,
    stored: ExpertsFormat,
    dtype: Dtype,
    storage: Dtype,
    experts: Literal["packed", "expanded"],
) -> None:
    write_random(tmp_path, TINY, experts_format=stored, device="cpu")
    with open_checkpoint(tmp_path) as checkpoint:
        loaded = load_weights(
            checkpoint, dtype=getattr(torch, dtype), storage=getattr(torch, storage), experts=experts
        )
    plan = plan_memory(
        TINY, experts_format=stored, device="cpu", dtype=dtype, storage=storage, experts=experts
    )
    assert plan.weight_bytes == tensor_bytes(loaded)


@pytest.mark.parametrize("shape", [(32, 5760, 2880), (3, 40, 96), (2, 33, 1056)])
def test_packed_experts_are_planned_with_their_padding(shape: tuple[int, int, int]) -> None:
    from mosso.kernels.gpu.mxfp4_layout import packed_shapes

    assert packed_bytes(*shape) == tuple(2 * math.prod(packed) for packed in packed_shapes(*shape))


def test_pages_are_those_of_the_pools() -> None:
    plan = plan_memory(GPT_OSS_20B, page_size=32)
    assert (plan.full_page_bytes, plan.window_page_bytes) == kv_bytes_per_page(
        GPT_OSS_20B, 32, torch.bfloat16
    )


def test_the_published_models_on_an_80_gb_gpu() -> None:
    small, large = (plan_memory(config, memory=79 * GIB) for config in (GPT_OSS_20B, GPT_OSS_120B))
    assert (small.kv_token_bytes, large.kv_token_bytes) == (24 << 10, 36 << 10)
    assert (small.window_sequence_bytes, large.window_sequence_bytes) == (3 << 20, 9 << 19)
    assert small.weight_bytes == pytest.approx(13_761_264_768, rel=5e-3)  # as stored, and some padding
    embedding = 2 * GPT_OSS_120B.vocab_size * GPT_OSS_120B.hidden_size  # on the host
    assert large.weight_bytes == pytest.approx(65_248_815_744 - embedding, rel=5e-3)
    assert small.kv_tokens > 2_400_000
    assert large.kv_tokens > 400_000
    assert large.sequences(131_072) == 3
    assert small.sequences(8) == small.max_rows


@pytest.mark.parametrize(
    ("config", "rows", "least"),
    [(GPT_OSS_20B, 256, 2_400_000), (GPT_OSS_120B, 64, 280_000), (GPT_OSS_120B, 128, 280_000)],
)
def test_tokens_in_93_percent_of_an_h100(config: Any, rows: int, least: int) -> None:
    """Within what the driver gave on an H100 (docs/facts.md), less than is printed on it."""
    assert DEVICE_MEMORY == 75_403 << 20
    plan = plan_memory(config, memory=DEVICE_MEMORY, max_rows=rows, token_budget=8192)
    assert plan.kv_tokens >= least
    assert plan.cached_bytes < 0.02 * plan.memory
    half = plan_memory(config, memory=plan.memory, max_rows=rows, token_budget=8192, kv_dtype="float8")
    assert half.kv_tokens > 2 * plan.kv_tokens


def test_the_gpus_weights_are_planned_to_the_byte(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from mosso.model.gpu_loading import load_gpu_weights

    write_random(tmp_path, TINY, device="cpu")
    with open_checkpoint(tmp_path) as checkpoint:
        loaded = load_gpu_weights(checkpoint, torch.device("cpu"))
    assert plan_memory(TINY, device="cuda").weight_bytes == tensor_bytes(loaded)


@settings(max_examples=40)
@given(
    memory=st.integers(0, 200 * GIB),
    page_size=st.sampled_from([8, 16, 64, 256]),
    max_rows=st.integers(1, 512),
    token_budget=st.integers(1, 16_384),
)
def test_what_is_said_to_fit_fits_and_a_little_more_does_not(
    memory: int, page_size: int, max_rows: int, token_budget: int
) -> None:
    plan = plan_memory(
        GPT_OSS_20B, memory=memory, page_size=page_size, max_rows=max_rows, token_budget=token_budget
    )
    assert plan.kv_tokens == plan.full_pages * page_size

    def used(pages: int) -> float:
        cached = min(pages, 2048) / 8 + max(0, pages - 2048) / 64
        return plan.fixed_bytes + pages * plan.full_page_bytes + cached * plan.window_page_bytes

    if plan.full_pages:
        assert used(plan.full_pages) <= memory
    assert used(plan.full_pages + 1) > memory


@given(
    window=st.integers(2, 300),
    page_size=st.sampled_from([8, 16, 64]),
    row=st.tuples(st.integers(0, 5000), st.integers(1, 600)),
)
def test_the_windows_of_a_row_fit_its_share(window: int, page_size: int, row: tuple[int, int]) -> None:
    """A row that computes start … start + count - 1 touches no more pages than it is given."""
    start, count = row
    first = max(0, start - (window - 1)) // page_size
    touched = (start + count - 1) // page_size - first + 1
    assert touched <= window_need(window, page_size, max_rows=1, token_budget=count)


def test_an_expansion_is_named() -> None:
    packed = format_plan(plan_memory(GPT_OSS_20B, device="cpu"))
    assert "experts (MXFP4, as stored)" in packed
    assert "one expert at a time (float32, expanded from MXFP4)" in packed
    expanded = plan_memory(GPT_OSS_20B, device="cpu", experts="expanded")
    assert "experts (float32, expanded from MXFP4)" in format_plan(expanded)
    assert expanded.weight_bytes > 80e9


def test_the_table() -> None:
    text = format_plan(plan_memory(GPT_OSS_20B, memory=80 * GIB))
    assert text.startswith("24 layers, 32 experts, 20.91 B parameters\n")
    rows = (
        r"weights +12.9 GiB",
        r"each token, in 12 full layers +24 KiB",
        r"windows of 128 +3 MiB",
        r"tokens of KV that fit 80 GiB +2,\d{3},\d{3}",
        r"sequences of 131,072 tokens +\d+",
    )
    for row in rows:
        assert re.search(row, text), row
    assert all(len(line) <= 100 and line == line.rstrip() for line in text.splitlines())
    assert "fit" not in format_plan(plan_memory(GPT_OSS_20B))


def test_too_little_memory_is_said() -> None:
    text = format_plan(plan_memory(GPT_OSS_120B, memory=24 * GIB))
    assert re.search(r"does not fit 24 GiB: 3\d(\.\d)? GiB are missing", text)


def test_an_expansion_is_said() -> None:
    tiny = plan_memory(TINY, device="cpu", experts="expanded")
    assert "experts (float32, expanded from MXFP4)" in format_plan(tiny)
    assert format_plan(tiny).startswith("4 layers, 8 experts, 0.666 M parameters")
    assert plan_memory(GPT_OSS_20B).weight_bytes < 14e9


@settings(max_examples=40)
@given(
    memory=st.integers(1 << 28, 64 * GIB),
    page_size=st.sampled_from([8, 16, 64]),
    max_rows=st.integers(1, 256),
    budget=st.integers(256, 8192),
)
def test_tokens_are_those_that_the_engine_would_hold(
    memory: int, page_size: int, max_rows: int, budget: int
) -> None:
    plan = plan_memory(
        GPT_OSS_20B, memory=1 << 50, page_size=page_size, max_rows=max_rows, token_budget=budget
    )
    given_memory = plan.fixed_bytes - plan.window_bytes + memory  # what remains for KV is `memory`
    plan = replace(plan, memory=given_memory)
    engine = EngineSettings(
        Path(),
        device="cuda",
        page_size=page_size,
        token_budget=budget,
        max_rows=max_rows,
        kv_memory=memory,
        prefix_cache=True,
    )
    try:
        held = kv_budget(GPT_OSS_20B, engine).full_tokens
    except UsageError:
        held = 0
    assert plan.kv_tokens == held


def test_short_contexts_are_not_offered_longer_sequences() -> None:
    config = replace(TINY, max_context=9000)
    text = format_plan(plan_memory(config, memory=GIB * 2))
    assert "8,192 tokens" in text
    assert "32,768 tokens" not in text


@pytest.mark.parametrize("name", ["page_size", "token_budget", "max_rows"])
def test_a_size_below_one_names_its_flag(name: str) -> None:
    with pytest.raises(UsageError, match="--" + name.replace("_", "-")):
        plan_memory(TINY, **{name: 0})


def test_packed_experts_must_be_stored_so() -> None:
    with pytest.raises(UsageError, match="bf16"):
        plan_memory(TINY, experts_format="bf16", experts="packed")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (24 << 10, "24 KiB"), (80 * GIB, "80 GiB")],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize("config", [GPT_OSS_20B, GPT_OSS_120B])
def test_the_count_of_parameters_is_that_of_the_tensors(config):
    specs = expected_tensors(config, "bf16").values()
    assert config.parameters == sum(math.prod(spec.shape) for spec in specs)
