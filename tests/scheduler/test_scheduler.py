"""The policy, seen through plans and events; the device of conftest verifies every plan on the way."""

import pytest

from mosso.core.errors import EngineError, OverloadedError, RequestError
from mosso.core.requests import FinishReason, Request, SamplingParams, TokenLogprob
from mosso.core.steps import StepResult


def request(name, prompt=5, *, max_tokens=4, priority=0, salt="", **sampling):
    """A request; a prompt given as a number is that many tokens of its own."""
    if isinstance(prompt, int):
        first = sum(map(ord, name))
        prompt = [(first + i * i) % 40 for i in range(prompt)]
    return Request(name, tuple(prompt), SamplingParams(max_tokens, **sampling), priority, salt)


def shape(plan):
    """(row, start, count, samples) of each work item."""
    return [(w.row, w.start, w.count, w.samples) for w in plan.work]


# ---- one request


@pytest.mark.parametrize("depth", [0, 1])
def test_a_request_gets_its_tokens_one_event_a_step(make_loop, depth):
    loop = make_loop(depth)
    loop.add(ask := request("a", 10, max_tokens=5))
    loop.drain()
    loop.verify(ask)
    assert [len(event.tokens) for event in loop.events["a"]] == [1] * 5
    assert [shape(plan) for plan in loop.plans] == [
        [(0, 0, 10, True)],
        *[[(0, position, 1, True)] for position in range(10, 14)],
    ]


def test_the_start_carries_all_tokens_and_the_row_is_released_with_the_next_plan(make_loop):
    loop = make_loop()
    loop.add(first := request("a", 5, max_tokens=1))
    (start,) = loop.step().starts
    assert (start.row, start.request, start.tokens, start.cached) == (0, first, first.prompt, 0)
    loop.add(request("b", max_tokens=1))
    plan = loop.step()
    assert plan.releases == (0,)
    assert [s.row for s in plan.starts] == [0]


def test_a_long_prompt_is_computed_in_chunks_of_the_budget(make_loop):
    loop = make_loop(token_budget=8)
    loop.add(request("a", 20, max_tokens=1))
    loop.drain()
    assert [shape(plan) for plan in loop.plans] == [
        [(0, 0, 8, False)],
        [(0, 8, 8, False)],
        [(0, 16, 4, True)],
    ]


def test_a_chunk_is_no_longer_than_the_window_pages_that_are_left(make_loop):
    loop = make_loop(window_pages=4, page_size=4, window=8)
    loop.add(ask := request("a", 30, max_tokens=2))
    loop.drain()
    loop.verify(ask)
    assert shape(loop.plans[0]) == [(0, 0, 16, False)]


@pytest.mark.parametrize("depth", [0, 1])
def test_a_stop_id_ends_the_stream_and_is_its_last_token(make_loop, depth):
    loop = make_loop(depth)
    loop.add(request("free", 5, max_tokens=8))
    loop.drain()
    stop = loop.tokens("free")[3]
    loop.add(request("a", loop.plans[0].starts[0].tokens, max_tokens=8, stop_ids=frozenset({stop})))
    loop.drain()
    assert loop.finish("a") is FinishReason.STOP
    assert loop.tokens("a") == loop.tokens("free")[: loop.tokens("free").index(stop) + 1]


def test_a_stop_id_before_min_tokens_is_a_token_like_any_other(make_loop):
    loop = make_loop()
    loop.add(request("a", max_tokens=3, stop_ids=frozenset({7}), min_tokens=2))
    finishes = []
    for _ in range(2):
        plan = loop.scheduler.plan()
        (event,) = loop.scheduler.update(StepResult(plan.step, (0,), (7,), (None,)))
        finishes.append(event.finish)
    assert finishes == [None, FinishReason.STOP]


def test_the_stop_id_counts_where_it_is_also_the_last_token_allowed(make_loop):
    loop = make_loop()
    loop.add(request("a", max_tokens=1, stop_ids=frozenset({7})))
    plan = loop.scheduler.plan()
    (event,) = loop.scheduler.update(StepResult(plan.step, (0,), (7,), (None,)))
    assert event.finish is FinishReason.STOP


@pytest.mark.parametrize("depth", [0, 1])
def test_a_request_ends_at_the_end_of_the_context(make_loop, depth):
    loop = make_loop(depth, max_context=12)
    loop.add(request("a", 9, max_tokens=100))
    loop.drain()
    assert (len(loop.tokens("a")), loop.finish("a")) == (3, FinishReason.LENGTH)
    assert len(loop.plans) == 3, "no step computes what nobody wants"


def test_log_probabilities_pass_through(make_loop):
    loop = make_loop()
    loop.add(request("a", max_tokens=1, logprobs=2), request("b", max_tokens=1))
    loop.drain()
    (token,) = loop.tokens("a")
    assert loop.events["a"][0].logprobs == (TokenLogprob(token, -float(token)),)
    assert loop.events["b"][0].logprobs == ()


# ---- what is refused


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(make_loop):
    loop = make_loop(max_context=12)
    with pytest.raises(RequestError, match="12 tokens") as error:
        loop.add(request("a", 12))
    assert (error.value.code, error.value.param) == ("context_length_exceeded", None)
    loop.add(request("b", 11))


def test_a_prompt_longer_than_the_full_pool_is_refused(make_loop):
    with pytest.raises(RequestError, match="can have 32"):
        make_loop(full_pages=8, page_size=4).add(request("a", 32))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(request("a", 0), "no tokens"), (request("a", max_tokens=0), "max_tokens must be at least 1")],
)
def test_a_request_for_nothing_is_refused(make_loop, wrong, message):
    loop = make_loop()
    with pytest.raises(RequestError, match=message):
        loop.add(wrong)
    assert not loop.scheduler.has_work


def test_an_id_is_served_once_at_a_time(make_loop):
    loop = make_loop()
    loop.add(request("a", max_tokens=1))
    with pytest.raises(RequestError, match="id a is being served"):
        loop.add(request("a"))
    loop.drain()
    loop.add(request("a", max_tokens=1))


def test_a_full_queue_says_so_and_recovers(make_loop):
    loop = make_loop(max_waiting=2, max_rows=1)
    loop.add(request("a"), request("b"))
    with pytest.raises(OverloadedError, match="2 requests are waiting"):
        loop.add(request("c"))
    loop.step()
    loop.add(request("c"))
    loop.drain()
    assert loop.finish("c") is FinishReason.LENGTH


@pytest.mark.parametrize("wrong", [StepResult(5, (0,), (1,), (None,)), StepResult(0, (1,), (1,), (None,))])
def test_a_result_that_no_plan_asked_for_is_an_error(make_loop, wrong):
    scheduler = make_loop().scheduler
    with pytest.raises(EngineError, match=f"step {wrong.step} "):
        scheduler.update(wrong)
    scheduler.add(request("a"))
    plan = scheduler.plan()
    with pytest.raises(EngineError):
        scheduler.update(wrong)
    assert len(scheduler.update(StepResult(plan.step, (0,), (1,), (None,)))) == 1


def test_a_third_step_is_not_planned_before_the_first_has_ended(make_loop):
    scheduler = make_loop().scheduler
    scheduler.add(request("a"))
    assert scheduler.plan()
    assert scheduler.plan()
    with pytest.raises(AssertionError, match="before the result"):
        scheduler.plan()


# ---- many requests


def test_single_positions_come_first_and_chunks_fill_the_budget(make_loop):
    loop = make_loop(token_budget=10)
    loop.add(request("a", 6))
    loop.step()
    loop.add(request("b", 20), request("c", 5))
    assert shape(loop.step()) == [(0, 6, 1, True), (1, 0, 9, False)]
    assert shape(loop.step()) == [(0, 7, 1, True), (1, 9, 9, False)]
    assert shape(loop.step()) == [(0, 8, 1, True), (1, 18, 2, True), (2, 0, 5, True)]


def test_beside_decoding_rows_prompts_have_a_budget_of_their_own(make_loop):
    loop = make_loop(token_budget=12, prefill_budget=3)
    loop.add(request("a", 9, max_tokens=3))
    assert shape(loop.step()) == [(0, 0, 9, True)], "alone it has the whole budget"
    loop.add(request("b", 20), request("c", 5))
    assert shape(loop.step()) == [(0, 9, 1, True), (1, 0, 3, False)]
    assert shape(loop.step()) == [(0, 10, 1, True), (1, 3, 3, False)]
    assert shape(loop.step()) == [(1, 6, 12, False)]
    assert shape(loop.step()) == [(1, 18, 2, True), (0, 0, 5, True)]


def test_the_next_turn_of_a_conversation_hits_after_much_other_traffic(make_loop):
    """Its history has the first turn's prompt, not its thinking."""
    loop = make_loop(full_pages=600, window_pages=40, max_context=200)
    turn = request("turn", 42, max_tokens=30)
    loop.add(turn)
    loop.drain()
    for index in range(3):
        loop.add(request(f"other {index}", [(index * 7 + at * at) % 40 for at in range(160)]))
        loop.drain()
    loop.add(request("next turn", [*turn.prompt, *range(20)]))
    loop.drain()
    assert loop.events["next turn"][0].cached_tokens == 40


def test_with_more_rows_than_budget_the_earlier_ones_go_on(make_loop):
    loop = make_loop(token_budget=2)
    loop.add(*(asks := [request(name, 1, max_tokens=3) for name in "abc"]))
    assert shape(loop.step()) == [(0, 0, 1, True), (1, 0, 1, True)]
    assert shape(loop.step()) == [(0, 1, 1, True), (1, 1, 1, True)]
    loop.drain()
    for ask in asks:
        loop.verify(ask)
    assert list(loop.events) == ["a", "b", "c"]


def test_first_come_first_served_inside_a_priority(make_loop):
    loop = make_loop(max_rows=2)
    loop.add(*(request(name, max_tokens=3) for name in "abcd"))
    loop.drain()
    assert list(loop.events) == ["a", "b", "c", "d"]


def test_a_better_priority_starts_first_and_gets_the_budget_first(make_loop):
    loop = make_loop(token_budget=8)
    loop.add(request("slow", 30, priority=5))
    loop.step()
    loop.add(request("later", 6, priority=5), request("quick", 6, priority=1))
    assert shape(loop.step()) == [(1, 0, 6, True), (0, 8, 2, False)]


def test_a_better_priority_takes_a_row_and_gives_it_back(make_loop):
    loop = make_loop(max_rows=2)
    loop.add(low := request("low", priority=5, max_tokens=9), same := request("same", max_tokens=9))
    loop.step()
    loop.step()
    loop.add(high := request("high", priority=0))
    plan = loop.step()
    assert plan.releases == (1,), "the worst one runs in row 1"
    assert [s.request for s in plan.starts] == [high]
    loop.drain()
    for ask in (low, same, high):
        loop.verify(ask)
    assert loop.scheduler.stats().preemptions == 1


def test_the_budget_of_one_that_gives_way_is_given_again(make_loop):
    loop = make_loop(max_rows=2, token_budget=3)
    loop.add(request("a", 1, priority=5, max_tokens=9), request("b", 1, priority=5, max_tokens=9))
    loop.step()
    loop.add(request("high", 2))
    assert shape(loop.step()) == [(0, 1, 1, True), (1, 0, 2, True)]


def test_an_equal_priority_takes_no_row(make_loop):
    loop = make_loop(max_rows=1)
    loop.add(request("a"), request("b"))
    loop.drain()
    assert loop.scheduler.stats().preemptions == 0


def test_nobody_overtakes_the_best_one_waiting(make_loop):
    loop = make_loop(full_pages=16, max_context=64)
    loop.add(request("a", 30, max_tokens=6))
    loop.step()
    loop.add(request("large", 40, max_tokens=2), request("small", 4, max_tokens=1))
    loop.drain()
    assert list(loop.events) == ["a", "large", "small"]


def test_one_that_runs_keeps_a_page_to_grow_into(make_loop):
    loop = make_loop(full_pages=6, max_context=24)
    loop.add(request("a", 8, max_tokens=9))
    loop.step()
    loop.add(request("b", 12, max_tokens=1))  # three pages; four are left, and "a" needs two of them
    assert not loop.step().starts
    loop.drain()
    assert loop.scheduler.stats().preemptions == 0


# ---- preemption


@pytest.mark.parametrize("depth", [0, 1])
def test_the_latest_of_the_worst_priority_makes_room_and_loses_no_token(make_loop, depth):
    loop = make_loop(depth, full_pages=16, max_context=48)
    asks = [request(name, 8, max_tokens=22, priority=p) for name, p in (("a", 1), ("b", 0), ("c", 1))]
    loop.add(*asks)
    loop.drain()
    for ask in asks:
        loop.verify(ask)
    starts = [s.request.id for plan in loop.plans for s in plan.starts]
    assert starts[:3] == ["b", "a", "c"]
    assert set(starts[3:]) == {"c"}, "the latest of the worst priority gave way, and only that one"


def test_a_resumed_request_starts_with_what_it_had_generated(make_loop):
    loop = make_loop(max_rows=1)
    loop.add(ask := request("a", 6, priority=1, max_tokens=9))
    for _ in range(4):
        loop.step()
    got = loop.tokens("a")
    loop.add(request("b", priority=0, max_tokens=1))
    loop.drain()
    resumed = loop.plans[5].starts[0]
    assert resumed.tokens == ask.prompt + got
    assert resumed.cached == 8, "its own pages are a hit: 9 positions were computed"
    stats = loop.scheduler.stats()
    assert (stats.prompt_tokens, stats.cached_prompt_tokens) == (6 + 5, 0), "a prompt counts once"
    loop.verify(ask)


def test_a_token_in_flight_at_a_preemption_is_kept(make_loop):
    loop = make_loop(1, max_rows=1)
    loop.add(ask := request("a", 6, priority=1, max_tokens=9))
    loop.step()
    loop.step()
    loop.add(request("b", priority=0, max_tokens=1))
    assert loop.step().releases == (0,)
    loop.drain()
    loop.verify(ask)


def test_nothing_starts_before_all_its_tokens_are_known(make_loop):
    scheduler = make_loop().scheduler
    scheduler.add(request("a"))
    scheduler._waiting.best.in_flight = 1
    assert scheduler.plan() is None
    scheduler._waiting.best.in_flight = 0
    assert scheduler.plan().starts


def test_a_request_may_end_while_it_waits_to_resume(make_loop):
    loop = make_loop(1, max_rows=1)
    loop.add(ask := request("a", 6, priority=1, max_tokens=2))
    loop.step()
    loop.step()  # its last token is in flight
    loop.add(request("b", priority=0, max_tokens=1))
    loop.drain()
    loop.verify(ask)
    assert [s.request.id for plan in loop.plans for s in plan.starts] == ["a", "b"]


def test_the_best_request_is_never_stopped(make_loop):
    loop = make_loop(full_pages=10, window_pages=10, max_context=40)
    loop.add(*(request(f"r{i}", 8, max_tokens=30) for i in range(6)))
    while loop.finish("r0") is None:
        assert 0 in [w.row for w in loop.step().work]
    loop.drain()


# ---- abort


@pytest.mark.parametrize("depth", [0, 1])
def test_an_aborted_request_gets_one_last_event_and_frees_everything(make_loop, depth):
    loop = make_loop(depth)
    loop.add(request("a", 9, max_tokens=50), other := request("b"))
    for _ in range(3):
        loop.step()
    (event,) = loop.abort("a")
    assert (event.finish, event.tokens) == (FinishReason.ABORT, ())
    assert loop.abort("a") == []
    loop.drain()
    loop.verify(other)
    assert loop.scheduler.stats().kv_blocks_held == 0


def test_a_waiting_request_can_be_aborted(make_loop):
    loop = make_loop()
    loop.add(request("a"))
    assert [event.finish for event in loop.abort("a")] == [FinishReason.ABORT]
    assert not loop.scheduler.has_work
    assert loop.scheduler.plan() is None


def test_a_row_restarted_after_an_abort_gets_no_stale_token(make_loop):
    loop = make_loop(1, max_rows=1)
    loop.add(request("a", max_tokens=50), ask := request("b"))
    for _ in range(3):
        loop.step()
    loop.abort("a")
    loop.drain()
    loop.verify(ask)


def test_unknown_ids_are_ignored(make_loop):
    assert make_loop().abort("nobody") == []


# ---- a device that lost its memory


@pytest.mark.parametrize("depth", [0, 1])
def test_a_failure_ends_what_runs_and_spares_what_waits(make_loop, depth):
    loop = make_loop(depth, max_rows=2)
    loop.add(*(asks := [request(name, max_tokens=6) for name in "abc"]))
    loop.step()
    loop.step()
    loop.fail()
    assert [loop.finish(name) for name in "abc"] == [FinishReason.ERROR, FinishReason.ERROR, None]
    assert loop.events["a"][-1].error == "out of memory"
    assert loop.scheduler.stats().kv_blocks_free == loop.scheduler.stats().kv_blocks_total
    loop.drain()
    for ask in asks:
        loop.verify(ask)
    assert loop.finish("c") is FinishReason.LENGTH
    assert loop.scheduler.stats().finished == {"error": 2, "length": 1}


def test_a_token_that_a_failure_lost_is_sampled_again(make_loop):
    loop = make_loop(1, max_rows=1)
    loop.add(ask := request("a", 6, priority=1, max_tokens=9))
    loop.step()
    loop.step()
    loop.add(request("b", priority=0, max_tokens=2))
    loop.running.append(loop.device.run(loop.scheduler.plan()))
    assert loop.scheduler.stats().preemptions == 1, "with a token in flight"
    loop.fail()
    loop.drain()
    loop.verify(ask)
    assert (loop.finish("a"), loop.finish("b")) == (FinishReason.LENGTH, FinishReason.ERROR)


# ---- prefix cache


@pytest.mark.parametrize("depth", [0, 1])
def test_a_conversation_goes_on_from_the_pages_of_its_last_turn(make_loop, depth):
    loop = make_loop(depth)
    loop.add(first := request("a", 10, max_tokens=11))
    loop.drain()
    loop.add(second := request("b", (*first.prompt, *loop.tokens("a"), 1, 2, 3)))
    loop.drain()
    loop.verify(second)
    assert [event.cached_tokens for event in loop.events["b"]] == [20, 0, 0, 0]
    stats = loop.scheduler.stats()
    assert (stats.prompt_tokens, stats.cached_prompt_tokens) == (34, 20)


def test_salts_share_nothing(make_loop):
    loop = make_loop()
    prompt = range(20)
    for name, salt in (("a", "x"), ("b", "y"), ("c", "x")):
        loop.add(request(name, prompt, salt=salt))
        loop.drain()
    assert [loop.events[name][0].cached_tokens for name in "abc"] == [0, 0, 16]


def test_requests_that_come_together_with_one_prompt_compute_it_once(make_loop):
    loop = make_loop()
    loop.add(*(request(f"r{i}", range(22), max_tokens=2) for i in range(4)))
    assert shape(loop.step()) == [(0, 0, 22, True)]
    assert shape(loop.step()) == [(0, 22, 1, True), *[(row, 20, 2, True) for row in (1, 2, 3)]]


def test_a_chunk_that_is_running_can_be_hit_by_the_step_planned_behind_it(make_loop):
    loop = make_loop(1, token_budget=16)
    loop.add(request("a", range(40)), second := request("b", range(40)))
    loop.drain()
    loop.verify(second)
    assert loop.events["b"][0].cached_tokens > 0


def test_without_the_cache_nothing_is_hit(make_loop):
    loop = make_loop(prefix_cache=False)
    for name in "ab":
        loop.add(ask := request(name, range(20)))
        loop.drain()
        loop.verify(ask)
    assert loop.scheduler.stats().cached_prompt_tokens == 0
    assert loop.scheduler.stats().kv_blocks_cached == 0


# ---- what it says about itself


def test_the_snapshot_counts_what_happened(make_loop):
    loop = make_loop(max_rows=1, full_pages=40, window_pages=24)
    loop.add(request("a", 9, max_tokens=3), request("b", 5, max_tokens=1))
    loop.step()
    stats = loop.scheduler.stats()
    assert (stats.running, stats.waiting, stats.steps) == (1, 1, 1)
    assert stats.kv_blocks_total == 64
    assert stats.kv_blocks_held == 6, "three pages of nine positions in both groups"
    assert stats.kv_blocks_free + stats.kv_blocks_cached + stats.kv_blocks_held == 64
    loop.abort("b")
    loop.drain()
    stats = loop.scheduler.stats()
    assert (stats.prompt_tokens, stats.generated_tokens) == (9, 3)
    assert stats.finished == {"abort": 1, "length": 1}


def test_time_since_the_last_step_grows_only_while_work_waits(make_loop):
    loop = make_loop()
    loop.now = 100.0
    assert loop.scheduler.stats().seconds_since_step == 0
    loop.add(request("a", max_tokens=2))
    loop.now = 103.0
    assert loop.scheduler.stats().seconds_since_step == 3
    loop.step()
    assert loop.scheduler.stats().seconds_since_step == 0
    loop.now += 2.0
    loop.add(request("b", max_tokens=1))
    assert loop.scheduler.stats().seconds_since_step == 2, "more work does not hide a step that hangs"
    loop.drain()
    loop.now += 50.0
    assert loop.scheduler.stats().seconds_since_step == 0


def test_a_step_takes_the_time_from_its_plan_or_from_the_end_of_the_step_before(make_loop):
    loop = make_loop()
    scheduler = loop.scheduler
    scheduler.add(request("a", max_tokens=9))
    seconds = []
    loop.now = 10.0
    first = scheduler.plan()
    loop.now = 11.0
    second = scheduler.plan()
    for plan, ended in ((first, 14.0), (second, 15.5)):
        loop.now = ended
        scheduler.update(StepResult(plan.step, (0,), (1,), (None,)))
        seconds.append(scheduler.stats().last_step_seconds)
    assert seconds == [4.0, 1.5]


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s._free_rows.pop(),
        lambda s: s._running.best.full_pages.pop(),
        lambda s: s._running.best.window_pages.popleft(),
        lambda s: setattr(s._running.best, "in_flight", 1),
        lambda s: setattr(s._running.best, "computed", 0),
        lambda s: s._sequences.popitem(),
        lambda s: s._kv.full.take(1, 0),
        lambda s: s._kv.window.release([s._running.best.window_pages[0]]),
    ],
)
def test_check_sees_damage(make_loop, damage):
    loop = make_loop()
    loop.add(request("a", 9, max_tokens=9), request("b"))
    loop.step()
    loop.scheduler.check()
    damage(loop.scheduler)
    with pytest.raises(AssertionError):
        loop.scheduler.check()


def test_check_sees_a_page_that_changed_hands_too_early(make_loop):
    loop = make_loop(1)
    loop.add(request("a", 9, max_tokens=9), request("b", 9, max_tokens=9))
    loop.step()
    first, second = loop.running.popleft(), loop.device.run(loop.scheduler.plan())
    loop.abort("a")
    loop.scheduler.update(first)
    (step, pages, _), *_ = loop.scheduler._orphans
    assert step == second.step, "it may still write the pages"
    (taken,) = loop.scheduler._kv.full.take(1, step)  # as if that step had given one to another request
    assert taken in pages
    with pytest.raises(AssertionError):
        loop.scheduler._check_orphans()
    loop.scheduler.update(second)
    assert not loop.scheduler._orphans
