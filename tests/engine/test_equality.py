"""The same request gives the same logits and tokens however it is run."""

from __future__ import annotations

import random

import pytest
import torch

LENGTHS = (3, 17, 40, 64, 90, 5, 33, 121)


@pytest.fixture
def requests(request_of):
    rng = random.Random(7)
    return [
        request_of(f"r{i}", [rng.randrange(512) for _ in range(length)], max_tokens=30)
        for i, length in enumerate(LENGTHS)
    ]


@pytest.fixture
def alone(bench, requests):
    """Each request by itself, its prompt in one step, nothing cached: the definition."""
    outcomes = {}
    for request in requests:
        outcomes |= bench(token_budget=256, prefix_cache=False, max_rows=1).run([request])
    return outcomes


def assert_equal(outcomes, expected):
    for name, want in expected.items():
        got = outcomes[name]
        assert got.tokens == want.tokens, name
        assert got.finish == want.finish
        assert got.logits.keys() == want.logits.keys()
        for position, logits in want.logits.items():
            torch.testing.assert_close(got.logits[position], logits, atol=1e-4, rtol=1e-4)


def test_batched(bench, requests, alone):
    engine = bench(token_budget=512)
    assert_equal(engine.run(requests), alone)
    assert max(len(plan.work) for plan in engine.runner.plans) == len(requests)


def test_chunked(bench, requests, alone):
    engine = bench(token_budget=16)
    assert_equal(engine.run(requests), alone)
    assert any(len(plan.work) > 1 and not all(w.samples for w in plan.work) for plan in engine.runner.plans)


def test_preempted(bench, requests, alone):
    engine = bench(full_pages=24, token_budget=64)
    assert_equal(engine.run(requests), alone)
    assert engine.stats.preemptions > 0


def test_cached(bench, requests, alone):
    engine = bench()
    engine.run(requests)
    before = engine.stats.cached_prompt_tokens
    engine.outcomes.clear()
    engine.runner.plans.clear()
    engine.runner.logits.clear()
    assert_equal(engine.run(requests), alone)
    assert engine.stats.cached_prompt_tokens - before > sum(LENGTHS) // 2
    cached = {name: outcome.events[0].cached_tokens for name, outcome in engine.outcomes.items()}
    assert cached["r7"] == 120


def test_all_at_once(bench, requests, alone):
    """Tiny pools, a tiny budget, the cache on, two rounds."""
    engine = bench(full_pages=26, window_pages=26, token_budget=9, max_rows=5)
    engine.run(requests)
    engine.outcomes.clear()
    assert_equal(engine.run(requests), alone)


def test_continuing_a_conversation_hits_the_cache_exactly(bench, request_of):
    engine = bench()
    prompt = [i * 37 % 512 for i in range(70)]
    first = engine.run([request_of("a", prompt, max_tokens=20)])["a"]
    longer = [*prompt, *first.tokens, *range(30)]
    second = engine.run([request_of("b", longer)])["b"]
    assert second.events[0].cached_tokens == 88  # 90 tokens but the last were computed, in pages of 8
    fresh = bench(prefix_cache=False).run([request_of("b", longer)])
    assert_equal({"b": second}, fresh)
