"""Tokens that the device knows to follow: told at once, computed as a stretch, and the stream is the same."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosso.core.requests import FinishReason, Request, SamplingParams

from .conftest import Loop, run_alone


def request(name: str, prompt: int = 5, **fields: object) -> Request:
    kept = {key: fields.pop(key) for key in ("priority", "tenant", "cache_salt") if key in fields}
    return Request(name, tuple(range(prompt)), SamplingParams(**({"max_tokens": 12} | fields)), **kept)


def once(*counts: int) -> Callable[[], int]:
    """Forces so many tokens behind the first draws, and none behind later ones."""
    left = list(counts)
    return lambda: left.pop(0) if left else 0


def work_of(loop: Loop) -> list[tuple[int, int, bool, int]]:
    return [
        (item.start, item.count, item.samples, len(item.tokens)) for plan in loop.plans for item in plan.work
    ]


def test_a_run_is_told_with_the_token_before_it_and_computed_in_one_step(make_loop):
    loop = make_loop(forces=once(0, 4))
    loop.add(ask := request("a"))
    loop.drain()
    loop.verify(ask)
    assert [len(event.tokens) for event in loop.events["a"]] == [1, 5, 1, 1, 1, 1, 1, 1]
    assert work_of(loop)[:4] == [(0, 5, True, 0), (5, 1, True, 0), (6, 5, True, 5), (11, 1, True, 0)]


def test_a_step_that_was_planned_before_samples_the_first_of_them_once_more(make_loop):
    """It is neither told nor counted twice, and what it needs no step for is given to the device."""
    loop = make_loop(1, forces=once(0, 4))
    loop.add(ask := request("a"))
    loop.drain()
    loop.verify(ask)
    assert [len(event.tokens) for event in loop.events["a"]] == [1, 5, 1, 1, 1, 1, 1, 1]
    assert work_of(loop)[:5] == [
        (0, 5, True, 0), (5, 1, True, 0), (6, 1, True, 0), (7, 4, True, 4), (11, 1, True, 0)
    ]  # fmt: skip
    assert loop.scheduler.stats().generated_tokens == 12


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("limit", range(1, 9))
def test_max_tokens_cuts_a_run_at_each_place(make_loop, depth, limit):
    loop = make_loop(depth, forces=once(5))
    loop.add(ask := request("a", max_tokens=limit))
    loop.drain()
    loop.verify(ask)
    assert len(loop.tokens("a")) == limit
    assert loop.finish("a") is FinishReason.LENGTH
    assert loop.scheduler.stats().generated_tokens == limit


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("context", range(6, 14))
def test_the_context_s_end_cuts_a_run_at_each_place(make_loop, depth, context):
    loop = make_loop(depth, forces=once(6), max_context=context)
    loop.add(ask := request("a", max_tokens=1000))
    loop.drain()
    loop.verify(ask)
    assert len(ask.prompt) + len(loop.tokens("a")) == context


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("at", range(8))
def test_a_stop_id_ends_a_run_at_each_place(make_loop, depth, at):
    whole, _ = run_alone(request("a"), 128)
    loop = make_loop(depth, forces=once(6))
    loop.add(ask := request("a", stop_ids=frozenset({whole[at]})))
    loop.drain()
    loop.verify(ask)
    assert loop.tokens("a") == whole[: whole.index(whole[at]) + 1]
    assert loop.finish("a") is FinishReason.STOP


@pytest.mark.parametrize("depth", [0, 1])
def test_a_run_longer_than_the_budget_is_computed_in_parts(make_loop, depth):
    loop = make_loop(depth, forces=once(0, 9), token_budget=4)
    loop.add(ask := request("a", 4, max_tokens=20))
    loop.drain()
    loop.verify(ask)
    parts = [(count, samples, given) for _, count, samples, given in work_of(loop) if given]
    assert parts == [(4, False, 4), (4, False, 4), (2 - depth, True, 2 - depth)]


def test_streams_with_forced_tokens_come_before_prompts(make_loop):
    """A stretch that is forced is no prompt: it does not wait for one, nor within the prompts' budget."""
    loop = make_loop(forces=once(3), token_budget=12, prefill_budget=2)
    loop.add(request("a", max_tokens=9))
    loop.step()
    loop.add(request("b", 40, priority=-1, cache_salt="b", max_tokens=2))
    loop.step()
    assert [(item.start, item.count) for item in loop.plans[-1].work] == [(5, 4), (0, 2)]


def test_a_run_is_a_stream_s_step_to_the_pace(make_loop):
    """What prompts take is not learned from it, nor is it taken for no step of a stream alone."""
    loop = make_loop(forces=once(0, 5))
    loop.add(request("a", 1))
    loop.drain()
    assert loop.scheduler.stats().prompt_token_seconds == 0.0
    assert loop.scheduler.stats().answer_seconds > 0


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("steps", range(2, 7))
def test_preempted_amid_a_run_it_goes_on_from_what_was_told(make_loop, depth, steps):
    loop = make_loop(depth, max_rows=1, forces=once(0, 6))
    loop.add(ask := request("a", priority=1, max_tokens=20))
    for _ in range(steps):
        loop.step()
    known = len(ask.prompt) + len(loop.tokens("a"))
    loop.add(request("b", priority=0, max_tokens=1))
    loop.drain()
    loop.verify(ask)
    again = [start for plan in loop.plans for start in plan.starts if start.request is ask][1]
    assert len(again.tokens) >= known


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("steps", range(1, 6))
def test_aborts_and_failures_amid_a_run(make_loop, depth, steps):
    for end in (lambda loop: loop.abort("a"), lambda loop: loop.fail()):
        loop = make_loop(depth, forces=once(0, 6))
        loop.add(ask := request("a", max_tokens=20))
        for _ in range(steps):
            loop.step()
        told = loop.tokens("a")
        end(loop)
        loop.add(other := request("b"))
        loop.drain()
        loop.verify(ask)
        loop.verify(other)
        assert loop.tokens("a") == told


def test_pages_that_a_run_completes_are_found_by_the_next_request(make_loop):
    loop = make_loop(1, forces=once(0, 9))
    loop.add(ask := request("a", max_tokens=16))
    loop.drain()
    prompt = ask.prompt + loop.tokens("a")
    loop.add(Request("b", prompt, SamplingParams(max_tokens=1)))
    loop.drain()
    assert loop.events["b"][0].cached_tokens == 20, "all but the page that its last token is in"


def test_fairness_counts_forced_tokens(make_loop):
    loop = make_loop(max_rows=1, forces=once(4))
    loop.add(request("a", tenant="x", max_tokens=20), request("b", tenant="y"), request("c", tenant="x"))
    charged: list[int] = []
    charge = loop.scheduler._waiting.charge
    loop.scheduler._waiting.charge = lambda s, service: (charged.append(service), charge(s, service))
    loop.step()
    assert charged == [5, 2 * 5]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 20),
    most=st.integers(1, 12),
    depth=st.integers(0, 1),
    sizes=st.fixed_dictionaries(
        {
            "full_pages": st.integers(9, 30),
            "window_pages": st.integers(6, 30),
            "page_size": st.integers(1, 5),
            "window": st.integers(1, 9),
            "max_rows": st.integers(1, 5),
            "token_budget": st.integers(1, 20),
        }
    ),
)
def test_streams_are_exact_with_any_runs(make_loop, seed, most, depth, sizes):
    sizes["window_pages"] = max(sizes["window_pages"], sizes["window"] + 1)
    rng = random.Random(seed)
    loop = make_loop(depth, forces=lambda: rng.choice((0, 0, rng.randint(0, most))), **sizes)
    requests = [
        request(
            f"r{number}",
            rng.randint(1, min(8, loop.config.context - 1)),
            max_tokens=rng.choice((1, 7, 30)),
            stop_ids=frozenset(rng.sample(range(40), rng.randint(0, 2))),
            min_tokens=rng.choice((0, 4)),
            logprobs=rng.choice((None, None, 0)),
            priority=rng.randint(0, 2),
            cache_salt=rng.choice(("", "x")),
        )
        for number in range(6)
    ]
    for ask in requests:
        loop.add(ask)
        for _ in range(rng.randint(0, 4)):
            loop.step()
        if rng.random() < 0.1:
            loop.abort(f"r{rng.randrange(6)}")
        if rng.random() < 0.05:
            loop.fail()
    loop.drain()
    for ask in requests:
        loop.verify(ask)
