"""Sampling parameters through the whole engine: scheduler, table, sampler."""

from __future__ import annotations

import math
import random

import pytest
import torch

from mosso.core.errors import RequestError
from mosso.core.requests import FinishReason

PROMPT = [i * 31 % 512 for i in range(20)]


def noise(request_of, count, rng=None):
    """Other people's requests."""
    rng = rng or random.Random(3)
    return [
        request_of(f"other{i}", [rng.randrange(512) for _ in range(rng.randrange(1, 60))], temperature=1.0)
        for i in range(count)
    ]


def test_seeded_tokens_do_not_depend_on_the_batch(bench, request_of):
    seeded = request_of("s", PROMPT, temperature=1.0, seed=11, max_tokens=40)
    alone = bench().run([seeded])["s"].tokens
    assert bench().run([*noise(request_of, 12), seeded])["s"].tokens == alone
    assert bench(token_budget=16).run([seeded, *noise(request_of, 5)])["s"].tokens == alone
    other = request_of("s", PROMPT, temperature=1.0, seed=12, max_tokens=40)
    assert bench().run([other])["s"].tokens != alone


def test_streams_go_on_after_preemption(bench, request_of):
    requests = [
        request_of(f"r{i}", PROMPT[i:], temperature=1.0, seed=i, max_tokens=60, presence_penalty=0.5)
        for i in range(6)
    ]
    roomy = bench().run(requests)
    tight = bench(full_pages=22)
    tight.run(requests)
    assert tight.stats.preemptions > 0
    for request in requests:
        assert tight.outcomes[request.id].tokens == roomy[request.id].tokens


def test_an_unseeded_request_keeps_its_seed_across_preemption(bench, request_of):
    engine = bench(full_pages=22)
    engine.run([request_of(f"r{i}", PROMPT[i:], temperature=1.0, max_tokens=60) for i in range(6)])
    seeds: dict[str, set[int]] = {}
    for plan in engine.runner.plans:
        for start in plan.starts:
            seeds.setdefault(start.request.id, set()).add(start.request.sampling.seed)
    assert engine.stats.preemptions > 0
    assert all(len(found) == 1 and None not in found for found in seeds.values())
    assert len(set().union(*seeds.values())) == 6


def test_stop_ids_end_the_stream_with_the_stop_token(bench, request_of):
    free = bench().run([request_of("a", PROMPT)])["a"].tokens
    stop = free[5]
    at = free.index(stop)
    got = bench().run([request_of("a", PROMPT, stop_ids=frozenset([stop]))])["a"]
    assert got.tokens == free[: at + 1]
    assert got.finish is FinishReason.STOP
    assert [event.finish for event in got.events[:-1]] == [None] * at


def test_min_tokens_forbids_stop_ids_until_then(bench, request_of):
    free = bench().run([request_of("a", PROMPT)])["a"].tokens
    params = {"stop_ids": frozenset([free[0], free[2]]), "min_tokens": 5, "max_tokens": 30}
    got = bench().run([request_of("a", PROMPT, **params)])["a"].tokens
    assert not set(got[:5]) & params["stop_ids"]
    assert got[0] != free[0]


def test_the_stop_id_comes_right_after_min_tokens_when_it_wants_to(bench, request_of):
    eager = {"stop_ids": frozenset([7]), "logit_bias": ((7, 100.0),), "max_tokens": 30}
    for least in (0, 1, 5):
        got = bench().run([request_of("a", PROMPT, min_tokens=least, **eager)])["a"]
        assert (len(got.tokens), got.finish) == (least + 1, FinishReason.STOP)


def test_max_tokens_and_the_context_end_with_length(bench, request_of):
    got = bench().run([request_of("a", PROMPT, max_tokens=3)])["a"]
    assert (len(got.tokens), got.finish) == (3, FinishReason.LENGTH)
    got = bench(max_context=32).run([request_of("b", PROMPT, max_tokens=100)])["b"]
    assert (len(got.tokens), got.finish) == (12, FinishReason.LENGTH)


def test_logit_bias(bench, request_of):
    assert bench().run([request_of("a", PROMPT, logit_bias=((77, 100.0),))])["a"].tokens == [77] * 12
    free = bench().run([request_of("b", PROMPT)])["b"].tokens
    banned = tuple((token, -100.0) for token in set(free))
    assert not set(bench().run([request_of("c", PROMPT, logit_bias=banned)])["c"].tokens) & set(free)


def expected_penalized(logits, prompt, output, presence, frequency, repetition):
    """Token by token, as the parameters are defined."""
    logits = logits.tolist()
    for token in set(prompt) | set(output):
        value = logits[token]
        value = value / repetition if value > 0 else value * repetition
        logits[token] = value - frequency * output.count(token) - presence * (token in output)
    return max(range(len(logits)), key=logits.__getitem__)


@pytest.mark.parametrize(
    ("presence", "frequency", "repetition"),
    [(1.5, 0.0, 1.0), (0.0, 0.7, 1.0), (0.0, 0.0, 1.8), (-2.0, 0.3, 0.8)],
)
def test_penalties(bench, request_of, presence, frequency, repetition):
    request = request_of(
        "p",
        PROMPT,
        max_tokens=40,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
    )
    got = bench().run([*noise(request_of, 3), request])["p"]
    for at, token in enumerate(got.tokens):
        logits = got.logits[len(PROMPT) + at]
        want = expected_penalized(logits, PROMPT, got.tokens[:at], presence, frequency, repetition)
        assert token == want, at


def test_logprobs_are_the_models_own(bench, request_of):
    requests = [
        request_of("three", PROMPT, temperature=0.7, seed=1, logprobs=3, logit_bias=((9, 3.0),)),
        request_of("none", PROMPT[1:]),
        request_of("zero", PROMPT[2:], logprobs=0),
    ]
    outcomes = bench().run(requests)
    assert all(event.logprobs == () for event in outcomes["none"].events)
    for name, count in (("three", 3), ("zero", 0)):
        got = outcomes[name]
        start = min(got.logits)
        for at, event in enumerate(got.events):
            (found,) = event.logprobs
            table = got.logits[start + at].log_softmax(-1)
            assert found.token == got.tokens[at]
            assert math.isclose(found.logprob, table[found.token], abs_tol=1e-5)
            best = table.topk(count)
            assert [token for token, _ in found.top] == best.indices.tolist()
            torch.testing.assert_close(torch.tensor([value for _, value in found.top]), best.values)


@pytest.mark.parametrize("params", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_truncation_to_one_token_is_greedy(bench, request_of, params):
    greedy = bench().run([request_of("a", PROMPT)])["a"].tokens
    drawn = request_of("a", PROMPT, temperature=1.0, seed=5, **params)
    assert bench().run([*noise(request_of, 4), drawn])["a"].tokens == greedy


@pytest.mark.parametrize(
    "changes",
    [{"prompt": [512]}, {"prompt": [-1]}, {"logit_bias": ((512, 1.0),)}, {"stop_ids": frozenset([900])}],
)
def test_ids_outside_the_vocabulary_are_refused(bench, request_of, changes):
    prompt = changes.pop("prompt", PROMPT)
    engine = bench()
    engine.run([request_of("bad", prompt, **changes), request_of("good", PROMPT)])
    assert isinstance(engine.rejected["bad"], RequestError)
    assert "vocabulary" in engine.rejected["bad"].message
    assert engine.outcomes["good"].finish is FinishReason.LENGTH
    assert "bad" not in engine.outcomes


@pytest.mark.parametrize("changes", [{"top_k": 2**63}, {"seed": 2**63}, {"seed": -(2**63) - 1}])
def test_numbers_that_no_tensor_holds_hurt_nobody_else(bench, request_of, changes):
    engine = bench()
    engine.run([request_of("bad", PROMPT, **changes), request_of("good", PROMPT)])
    assert next(iter(changes)) in engine.rejected["bad"].message
    assert engine.outcomes["good"].finish is FinishReason.LENGTH
