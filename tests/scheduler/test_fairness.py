"""Who is served when: shares between tenants, priorities, idle capacity, as many rows as do no harm."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosso.core.errors import OverloadedError
from mosso.core.requests import BACKGROUND, QueueLoad, Request, SamplingParams

AMPLE = {"full_pages": 4000, "window_pages": 4000, "max_rows": 4, "prefix_cache": False}
SERVICE = 2  # of a generated token; of a token of a prompt it is 1
LONGEST = 8
random_traffic = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
sizes = st.lists(st.tuples(st.integers(1, LONGEST), st.integers(1, LONGEST)), min_size=3, max_size=12)


def ask(name, prompt=5, tokens=4, *, priority=0, tenant=""):
    start = sum(map(ord, name))
    ids = tuple((start + i * i) % 40 for i in range(prompt))
    return Request(name, ids, SamplingParams(tokens), priority, tenant=tenant)


def of(tenant, traffic):
    return [ask(f"{tenant}{n}", *size, tenant=tenant) for n, size in enumerate(traffic)]


def started(plan):
    return [start.request for start in plan.starts] if plan is not None else []


def computed(plan, loop):
    """Whose rows the latest plan works on."""
    return [loop.device.rows[work.row].request for work in plan.work] if plan is not None else []


# ---- between tenants


@random_traffic
@given(sizes, sizes, st.integers(1, 6), st.integers(4, 64), st.randoms(use_true_random=False))
def test_tenants_that_wait_are_given_the_same(make_loop, first, second, rows, budget, rng):
    """Their service differs by no more than one prompt and what the rows may still generate."""
    loop = make_loop(1, **AMPLE | {"max_rows": rows, "token_budget": budget})
    requests = of("a", first) + of("b", second)
    if rng.random() < 0.5:
        rng.shuffle(requests)
    loop.add(*requests)
    prompts = dict.fromkeys("ab", 0)

    def service(tenant):
        tokens = sum(len(loop.tokens(r.id)) for r in requests if r.tenant == tenant)
        return prompts[tenant] + SERVICE * tokens

    while {load.tenant for load in loop.scheduler.stats().loads if load.waiting} == {"a", "b"}:
        for request in started(loop.step()):
            prompts[request.tenant] += len(request.prompt)
        assert abs(service("a") - service("b")) <= LONGEST + rows * LONGEST * SERVICE
    loop.drain()


@random_traffic
@given(sizes, sizes, st.integers(1, 4), st.integers(0, 20))
def test_one_request_waits_for_one_of_each_other_tenant_at_most(make_loop, first, second, rows, later):
    loop = make_loop(1, **AMPLE | {"max_rows": rows})
    loop.add(*of("a", first), *of("b", second))
    for _ in range(later):
        loop.step()
    loop.add(ask("c0", tenant="c"))
    order = []
    while "c" not in order:
        order += [request.tenant for request in started(loop.step())]
    before = order[: order.index("c")]
    assert before.count("a") <= 1
    assert before.count("b") <= 1


@random_traffic
@given(sizes, st.integers(1, 6), st.integers(4, 64), st.randoms(use_true_random=False))
def test_no_row_is_free_while_somebody_waits(make_loop, traffic, rows, budget, rng):
    loop = make_loop(1, **AMPLE | {"max_rows": rows, "token_budget": budget})
    for n, size in enumerate(traffic):
        priority = rng.choice((-1, 0, 5))
        loop.add(ask(str(n), *size, priority=priority, tenant=rng.choice("abc")))
        plan = loop.step()
        if plan is not None and plan.num_tokens < budget:
            assert len(loop.device.rows) == rows or not loop.scheduler.stats().waiting
    loop.drain()


def test_a_tenant_of_many_does_not_fill_the_rows_of_another(make_loop):
    loop = make_loop(**AMPLE)
    loop.add(*of("a", [(5, 9)] * 20), *of("b", [(5, 9)] * 20))
    assert [request.tenant for request in started(loop.step())] == ["a", "b", "a", "b"]


# ---- idle capacity


def background(n, tokens=20):
    return [ask(f"back{i}", 5, tokens, priority=BACKGROUND) for i in range(n)]


def test_work_in_the_background_has_all_rows_while_it_is_alone(make_loop):
    loop = make_loop(**AMPLE, background_rows=1)
    loop.add(*background(5))
    assert len(loop.step().work) == 4


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_beside_others_a_few_rows_of_the_background_run(make_loop, rows):
    loop = make_loop(**AMPLE, background_rows=rows)
    loop.add(*background(3))
    loop.step()
    loop.add(ask("front", 5, 5))
    assert [request.id for request in started(loop.step())] == ["front"]
    for _ in range(4):
        asked = [request.id for request in computed(loop.step(), loop)]
        assert asked == ["front", "back0", "back1"][: 1 + rows]
    assert len(loop.step().work) == 3, "alone again"
    loop.drain()
    for request in background(3):
        loop.verify(request)


def test_an_eighth_of_the_rows_unless_it_is_said(make_config):
    assert [make_config(max_rows=n).most_background_rows for n in (1, 8, 9, 64)] == [1, 1, 2, 8]
    assert make_config(background_rows=0).most_background_rows == 0


def test_the_background_gives_its_rows_to_others(make_loop):
    loop = make_loop(**AMPLE)
    loop.add(*background(4))
    loop.step()
    loop.add(*(fronts := [ask(f"front{n}", tokens=2) for n in range(4)]))
    loop.step()
    assert {load.running for load in loop.scheduler.stats().loads if load.priority == 0} == {4}
    loop.drain()
    for request in (*fronts, *background(4)):
        loop.verify(request)


@pytest.mark.parametrize("seed", range(4))
def test_the_background_never_stands_in_the_way(make_loop, seed):
    """Beside others it has its few rows; it starts only where no other waits; and it is done in the end."""
    rng = random.Random(seed)
    small = {"full_pages": 24, "window_pages": 24, "max_rows": 5, "max_context": 80}
    loop = make_loop(1, **small, background_rows=(most := rng.randrange(3)))
    requests = []
    for n in range(150):
        if rng.random() < 0.2:
            priority = rng.choice((0, 3, BACKGROUND, BACKGROUND + 7))
            prompt, tokens = rng.randint(1, 30), rng.randint(1, 30)
            requests.append(ask(str(n), prompt, tokens, priority=priority, tenant=rng.choice("ab")))
            loop.add(requests[-1])
        plan = loop.step()
        working = [request.priority >= BACKGROUND for request in computed(plan, loop)]
        loads = loop.scheduler.stats().loads
        if any(request.priority >= BACKGROUND for request in started(plan)):
            assert not any(load.waiting for load in loads if load.priority < BACKGROUND)
        if not all(working) and not plan.starts:
            assert sum(working) <= most
    loop.drain()
    for request in requests:
        loop.verify(request)
    assert loop.scheduler.stats().preemptions


# ---- a full queue


def test_a_queue_full_of_worse_requests_refuses_nobody_better(make_loop):
    loop = make_loop(max_rows=1, max_waiting=2)
    loop.add(ask("runs"))
    loop.step()
    loop.add(*background(2))
    with pytest.raises(OverloadedError, match="2 requests are waiting already"):
        loop.add(ask("third", priority=BACKGROUND))
    loop.add(ask("front"), ask("next", priority=1))
    with pytest.raises(OverloadedError):
        loop.add(ask("last", priority=1))


# ---- as many rows as do no harm


def test_no_more_rows_run_than_slow_streams_down_as_much_as_they_may(make_loop):
    loop = make_loop(**AMPLE | {"max_rows": 8}, max_slowdown=3.2)
    loop.seconds = lambda plan: 0.01 * len(plan.work) if plan is not None else 0.0
    loop.add(*(ask(str(n), 5, 30, tenant=str(n)) for n in range(20)))
    counts = []
    while loop.scheduler.stats().waiting:
        loop.step()
        counts.append(loop.scheduler.stats().running)
    assert counts[1:5] == [1, 2, 3, 4], "one too many is tried now and then"
    assert max(counts) == 4
    assert Counter(counts).most_common(1)[0][0] == 3
    loop.drain()


def test_the_better_one_takes_a_row_though_fewer_may_run_by_now(make_loop):
    loop = make_loop(**AMPLE, max_slowdown=2.0)
    loop.add(ask("low", 5, 40, priority=1))
    loop.step()
    loop.add(ask("high", 5, 4))
    loop.step()
    loads = loop.scheduler.stats().loads
    assert [(load.priority, load.running, load.waiting) for load in loads] == [(0, 1, 0), (1, 0, 1)]
    loop.drain()


# ---- what it says about itself


def test_loads_say_who_runs_and_who_waits(make_loop):
    loop = make_loop(max_rows=2, max_waiting=9)
    loop.add(ask("a1", tenant="a"), ask("a2", tenant="a"), ask("b1", 7, tenant="b"), ask("c1", priority=2))
    assert loop.scheduler.stats().loads == (
        QueueLoad(0, "a", 0, 2, 10),
        QueueLoad(0, "b", 0, 1, 7),
        QueueLoad(2, "", 0, 1, 5),
    )
    loop.step()
    assert loop.scheduler.stats().loads == (
        QueueLoad(0, "a", 1, 1, 5),
        QueueLoad(0, "b", 1, 0, 0),
        QueueLoad(2, "", 0, 1, 5),
    )
    stats = loop.scheduler.stats()
    assert (stats.row_limit, stats.answer_seconds) == (2, 0.0)
    loop.drain()
    stats = loop.scheduler.stats()
    assert stats.loads == ()
    answer_seconds = stats.answer_seconds
    loop.add(ask("leaves"))
    loop.abort("leaves")
    assert loop.scheduler.stats().answer_seconds == answer_seconds, "it never had a row"
    assert stats.prompt_token_seconds > 0
    assert stats.answer_seconds > 0


def test_where_pages_run_out_no_more_rows_are_promised(make_loop):
    loop = make_loop(full_pages=12, window_pages=12, max_context=48, prefix_cache=False)
    loop.add(ask("a", 20, 10), ask("b", 20, 10), ask("c", 20, 10))
    loop.step()
    stats = loop.scheduler.stats()
    assert (stats.running, stats.waiting, stats.row_limit) == (2, 1, 2)
    while loop.scheduler.stats().waiting:
        loop.step()
    loop.step()
    assert loop.scheduler.stats().row_limit == 8
    loop.drain()
