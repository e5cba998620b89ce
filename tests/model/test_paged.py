"""The paged forward pass against the reference, however the work is cut into steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.kernels import native
from mosso.kernels.operations import NATIVE, TWINS
from mosso.model.loading import load_weights
from mosso.model.paged import PagedKV, kv_bytes_per_page
from mosso.model.reference import logits

LIMIT = 1e-4
LENGTHS = (37, 5, 20, 64)


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(8)
    return [torch.randint(0, 96, (length,), generator=generator) for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(weights, config, tokens):
    return [logits(weights, config, row) for row in tokens]


def run(rows, schedule):
    """Applies steps (row → count) and returns every row's logits, concatenated."""
    out = {}
    for work in schedule:
        for row, values in rows.step(work).items():
            out.setdefault(row, []).append(values)
    return {row: torch.cat(parts) for row, parts in out.items()}


def assert_equal(got, expected):
    for row, values in got.items():
        want = expected[row][: len(values)]
        assert (values - want).abs().max() < LIMIT * want.abs().max(), row


def test_one_by_one(weights, config, sequences, tokens, expected):
    for row, length in enumerate(LENGTHS):
        got = run(sequences(weights, config, tokens), [{row: 1}] * length)
        assert len(got[row]) == length
        assert_equal(got, expected)


@pytest.mark.parametrize("chunk", [3, 4, 17, 64])
def test_chunked(weights, config, sequences, tokens, expected, chunk):
    steps = [{3: min(chunk, 64 - start)} for start in range(0, 64, chunk)]
    assert_equal(run(sequences(weights, config, tokens), steps), expected)


def test_batched_decode(weights, config, sequences, tokens, expected):
    steps = [{0: 10, 1: 1, 2: 2, 3: 40}] + [dict.fromkeys(range(4), 1)] * 4
    assert_equal(run(sequences(weights, config, tokens), steps), expected)


def test_prefill_beside_decode(weights, config, sequences, tokens, expected):
    steps = [{3: 30}, {3: 1, 0: 11}, {0: 9, 3: 1, 2: 20}, {1: 5, 3: 1, 0: 1}]
    assert_equal(run(sequences(weights, config, tokens), steps), expected)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_schedule(weights, config, sequences, tokens, expected, data):
    rows = sequences(weights, config, tokens, page=data.draw(st.sampled_from([1, 4, 16])))
    while left := [row for row in range(4) if rows.done[row] < LENGTHS[row]]:
        chosen = data.draw(st.lists(st.sampled_from(left), min_size=1, unique=True))
        work = {row: data.draw(st.integers(1, LENGTHS[row] - rows.done[row])) for row in chosen}
        starts = {row: rows.done[row] for row in work}
        for row, values in rows.step(work).items():
            want = expected[row][starts[row] : starts[row] + len(values)]
            assert (values - want).abs().max() < LIMIT * expected[row].abs().max()


def test_packed_experts(config, random_source, sequences, tokens, expected):
    packed = load_weights(random_source(config, seed=0), dtype=torch.float32, experts="packed")
    assert_equal(run(sequences(packed, config, tokens), [{0: 30, 1: 1}, {0: 1, 1: 1}]), expected)


def test_bfloat16(config, random_source, sequences, tokens, expected):
    narrow = load_weights(random_source(config, seed=0), dtype=torch.bfloat16)
    got = run(sequences(narrow, config, tokens), [{0: 30, 1: 1}, {0: 1, 1: 1}])
    for row, values in got.items():
        want = expected[row][: len(values)]
        error = (values - want).norm(dim=-1) / want.norm(dim=-1)
        assert error.median() < 0.15  # not the worst: where a rounding changes an expert, much changes


def test_only_the_wanted_positions_have_logits(weights, config, sequences, tokens):
    rows = sequences(weights, config, tokens)
    everything = rows.step({0: 8, 1: 3})
    again = sequences(weights, config, tokens)
    again.wanted = torch.tensor([7, 10])
    last = again.step({0: 8, 1: 3})
    assert torch.allclose(last[0], everything[0][-1:], atol=1e-5)
    assert torch.allclose(last[1], everything[1][-1:], atol=1e-5)


def test_a_step_may_want_nothing(weights, config, sequences, tokens):
    rows = sequences(weights, config, tokens)
    rows.wanted = torch.tensor([], dtype=torch.int64)
    assert rows.step({0: 8})[0].shape == (0, config.vocab_size)


def test_pools_have_the_announced_size(config):
    kv = PagedKV.allocate(config, 7, 3, 16, torch.bfloat16)
    full, window = kv_bytes_per_page(config, 16, torch.bfloat16)
    assert sum(pool.nbytes for pool in kv.pools) == 7 * full + 3 * window


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["packed", "expanded"])
@pytest.mark.skipif(native.unavailable() is not None, reason="no C compiler")
def test_equal_bits_however_a_sequence_is_cut_and_shared(
    config, random_source, sequences, tokens, form, storage
):
    held = load_weights(random_source(config, seed=0), dtype=torch.float32, storage=storage, experts=form)
    alone = [run(sequences(held, config, tokens), [{row: 1}] * LENGTHS[row])[row] for row in range(4)]
    schedules = (
        [{3: 64}, {2: 20, 0: 37}, {1: 5}],
        [{0: 10, 1: 1, 2: 2, 3: 40}, *[dict.fromkeys(range(4), 1)] * 4, {0: 23, 3: 20}, {2: 14}],
    )
    for schedule in schedules:
        for row, values in run(sequences(held, config, tokens), schedule).items():
            assert torch.equal(values, alone[row])


@pytest.mark.parametrize("operations", [TWINS, NATIVE], ids=lambda choice: choice.name)
def test_each_set_of_operations(weights, config, sequences, tokens, expected, operations):
    if operations is NATIVE and native.unavailable() is not None:
        pytest.skip("no C compiler")
    rows = sequences(weights, config, tokens)
    rows.operations = operations
    assert_equal(run(rows, [{3: 30}, {3: 1, 0: 11}, {0: 9, 3: 1, 2: 20}, {1: 5, 3: 1, 0: 1}]), expected)
