"""TorchRunner, table and sampler against plain definitions."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.checkpoint.random_weights import TINY
from mosso.core.config import GPT_OSS_20B
from mosso.core.errors import UsageError
from mosso.core.requests import FinishReason, Request, SamplingParams
from mosso.core.steps import RowStart, RowWork, StepPlan
from mosso.engine.build import choose_experts
from mosso.engine.sampler import count_tokens
from mosso.engine.settings import EngineSettings
from mosso.engine.table import RowTable
from mosso.kernels.operations import NATIVE, TWINS

PAGE = 4


@st.composite
def tables(draw):
    """Rows with known tokens and pages for each position, and work over some of them."""
    starts, work = [], []
    for row in draw(st.permutations(range(5)))[: draw(st.integers(1, 5))]:
        length = draw(st.integers(1, 30))
        tokens = tuple(draw(st.lists(st.integers(0, 99), min_size=length, max_size=length)))
        pages = -(-length // PAGE)
        ids = draw(st.lists(st.integers(0, 999), min_size=2 * pages, max_size=2 * pages))
        begun = draw(st.integers(0, pages))  # this many pages come with the start, the others with the work
        window = tuple(zip(range(pages), ids[pages:], strict=True))
        request = Request(str(row), tokens, SamplingParams(max_tokens=1, seed=0))
        starts.append(RowStart(row, request, tokens, 0, tuple(ids[:begun]), window[:begun]))
        first = draw(st.integers(0, length - 1))
        samples = draw(st.booleans())
        count = length - first if samples else draw(st.integers(1, length - first))
        work.append(RowWork(row, first, count, samples, tuple(ids[begun:pages]), window[begun:]))
    return starts, work


@settings(max_examples=60, deadline=None)
@given(first=tables(), second=tables())
def test_gathered_inputs_are_what_the_plan_says(first, second):
    """Also where rows were used before."""
    table = RowTable(max_rows=5, max_context=32, page_size=PAGE, device=torch.device("cpu"))
    for step, (starts, work) in enumerate((first, second)):
        table.apply(StepPlan(step, tuple(range(5)), tuple(starts), tuple(work)))
        inputs = table.gather(work)
        spans = [range(item.start, item.start + item.count) for item in work]
        owned = {start.row: start for start in starts}
        assert inputs.positions.tolist() == [at for span in spans for at in span]
        assert inputs.tokens.tolist() == [
            owned[item.row].tokens[at] for item, span in zip(work, spans, strict=True) for at in span
        ]
        ends = [0]
        for span in spans:
            ends.append(ends[-1] + len(span))
        assert inputs.query_starts.tolist() == ends
        assert inputs.context_lens.tolist() == [span.stop for span in spans] == list(inputs.contexts)
        assert inputs.counts == tuple(map(len, spans))
        assert inputs.sample_at.tolist() == [
            end - 1 for end, item in zip(ends[1:], work, strict=True) if item.samples
        ]
        for at, item in enumerate(work):
            start = owned[item.row]
            full = [*start.full_pages, *item.new_full_pages]
            window = dict((*start.window_pages, *item.new_window_pages))
            used = -(-spans[at].stop // PAGE)
            assert inputs.full_pages[at, :used].tolist() == full[:used]
            assert inputs.window_pages[at, :used].tolist() == [window[page] for page in range(used)]


def test_a_sampled_token_is_the_next_steps_input():
    table = RowTable(max_rows=3, max_context=8, page_size=PAGE, device=torch.device("cpu"))
    request = Request("a", (5, 6), SamplingParams(max_tokens=6, seed=0))
    start = RowStart(2, request, (5, 6), 0, (), ())
    table.apply(StepPlan(0, (), (start,), (RowWork(2, 0, 2, True, (7,), ((0, 3),)),)))
    table.append(torch.tensor([2]), torch.tensor([2]), torch.tensor([42]))
    decode = RowWork(2, 2, 1, True)
    assert table.gather([decode]).tokens.tolist() == [42]
    last = torch.tensor([8])  # the token after the last position has a place, though it is never computed
    table.append(torch.tensor([2]), last, torch.tensor([43]))
    assert table.known(torch.tensor([2]), 9)[0, 8] == 43


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.integers(0, 9), min_size=1, max_size=12), st.lists(st.integers(0, 9), max_size=12)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_count_tokens(rows):
    """Prompt and output counted apart; what lies behind a row's end is ignored, whatever it is."""
    longest = max(len(prompt) + len(output) for prompt, output in rows)
    garbage = 10**12
    tokens = [
        [*prompt, *output, *[garbage] * (longest - len(prompt) - len(output))] for prompt, output in rows
    ]
    generated, prompted = count_tokens(
        torch.tensor(tokens),
        torch.tensor([len(prompt) for prompt, _ in rows]),
        torch.tensor([len(prompt) + len(output) for prompt, output in rows]),
        vocab_size=10,
    )
    for row, (prompt, output) in enumerate(rows):
        counts = Counter(output)
        assert generated[row].tolist() == [counts[token] for token in range(10)]
        assert prompted[row].tolist() == [token in prompt for token in range(10)]


def test_a_failed_forward_pass_hurts_only_what_ran(bench, request_of, capsys, monkeypatch):
    prompt = list(range(40))
    want = bench().run([request_of("z", prompt)])["z"].tokens
    engine = bench(max_rows=2)
    record, calls = engine.runner._forward, []

    def fail_once(inputs):
        calls.append(inputs)
        logits = record(inputs)
        if len(calls) == 4:
            raise RuntimeError("the device hiccuped")
        return logits

    monkeypatch.setattr(engine.runner, "_forward", fail_once)
    engine.run([request_of("a", prompt)])
    assert engine.outcomes["a"].finish is FinishReason.ERROR
    assert "hiccuped" in engine.outcomes["a"].events[-1].error
    assert engine.stats.kv_blocks_held == 0
    assert engine.stats.kv_blocks_cached == 0, "nothing that ran with the failed step is trusted"
    engine.runner.plans.clear()
    engine.runner.logits.clear()
    assert engine.run([request_of("d", prompt)])["d"].tokens == want


@pytest.mark.parametrize(
    ("asked", "stored", "dtype", "config", "kernels", "form", "note"),
    [
        ("auto", "mxfp4", "float32", GPT_OSS_20B, NATIVE, "packed", "as stored"),
        ("auto", "mxfp4", "float32", GPT_OSS_20B, TWINS, "packed", "as stored"),
        ("auto", "mxfp4", "float32", TINY, NATIVE, "packed", "as stored"),
        ("auto", "mxfp4", "float32", TINY, TWINS, "expanded", "no kernel here reads MXFP4"),
        ("expanded", "mxfp4", "float32", TINY, NATIVE, "expanded", "as asked"),
        ("packed", "mxfp4", "float32", TINY, TWINS, "packed", "as asked"),
        ("auto", "bf16", "float32", TINY, NATIVE, "expanded", "stored as bf16"),
        ("auto", "bf16", "bfloat16", GPT_OSS_20B, TWINS, "expanded", "36,450 MiB; stored as bf16"),
    ],
)
def test_the_experts_form_is_chosen_and_said(asked, stored, dtype, config, kernels, form, note):
    chosen = EngineSettings(Path("m"), experts=asked, dtype=dtype)
    found, said = choose_experts(config, stored, kernels, chosen)
    assert found == form
    assert note in said


def test_a_large_model_grows_only_when_asked():
    with pytest.raises(UsageError, match=r"72,900 MiB: ask for it with --experts expanded"):
        choose_experts(GPT_OSS_20B, "bf16", NATIVE, EngineSettings(Path("m")))
    found, _ = choose_experts(GPT_OSS_20B, "bf16", NATIVE, EngineSettings(Path("m"), experts="expanded"))
    assert found == "expanded"


def test_close_ends_the_worker(bench, request_of):
    others = set(threading.enumerate())  # runners of earlier tests may not have been collected yet
    engine = bench()
    engine.run([request_of("a", [1])])
    workers = {thread for thread in threading.enumerate() if thread.name.startswith("steps")} - others
    assert workers
    engine.runner.close()
    assert not any(thread.is_alive() for thread in workers)
