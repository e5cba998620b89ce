import random

import pytest

from mosso.core.requests import Request, SamplingParams
from mosso.scheduler.queue import FairQueue, Ranked, Waiting
from mosso.scheduler.sequence import UNSTARTED, Sequence


def sequence(priority, number, tenant="", prompt=1):
    request = Request(
        f"{priority}.{number}",
        (1,) * prompt,
        SamplingParams(max_tokens=1),
        priority=priority,
        tenant=tenant,
    )
    return Sequence(request, (priority, number), limit=2, tokens=[1])


def arrival(number, tenant="", priority=0, prompt=1):
    """One that never had a row."""
    return sequence(priority, UNSTARTED + number, tenant, prompt)


def served(queue, count, cost=1):
    """The tenants of the next sequences, each of which costs `cost` once it is taken."""
    tenants = []
    for _ in range(count):
        best = queue.best
        queue.remove(best)
        queue.charge(best.tenant, cost)
        tenants.append(best.tenant)
    return "".join(tenants)


def waiting(*sequences):
    queue = FairQueue()
    for item in sequences:
        queue.add(item)
    return queue


# ---- what runs


def test_ranked_by_priority_then_by_number():
    sequences = [sequence(p, a) for p in range(3) for a in range(5)]
    ranked = Ranked()
    for item in random.Random(0).sample(sequences, len(sequences)):
        ranked.add(item)
    assert list(ranked) == sequences
    assert (ranked.best, ranked.worst, len(ranked)) == (sequences[0], sequences[-1], 15)


def test_one_that_comes_back_keeps_its_place():
    first, second = sequence(0, 0), sequence(0, 1)
    ranked = Ranked()
    ranked.add(second)
    ranked.add(first)
    assert ranked.best is first
    ranked.remove(first)
    assert list(ranked) == [second]


def test_an_empty_one_has_no_best_and_no_worst():
    ranked = Ranked()
    assert (ranked.best, ranked.worst, len(ranked)) == (None, None, 0)


def test_only_a_member_can_be_removed():
    ranked = Ranked()
    ranked.add(sequence(0, 0))
    with pytest.raises(AssertionError):
        ranked.remove(sequence(0, 0))


# ---- what waits, of one priority


def test_one_tenant_is_served_as_it_came():
    sequences = [arrival(number) for number in range(5)]
    queue = waiting(*sequences)
    assert list(queue) == sequences
    assert queue.best is sequences[0]


def test_tenants_take_turns_however_many_each_has():
    queue = waiting(*(arrival(n, "a") for n in range(6)), *(arrival(6 + n, "b") for n in range(3)))
    assert served(queue, 9) == "abababaaa"


def test_turns_are_counted_in_service_not_in_requests():
    queue = waiting(*(arrival(n, "a") for n in range(3)), *(arrival(3 + n, "b") for n in range(9)))
    tenants = ""
    for _ in range(12):
        tenants += served(queue, 1, cost=3 if queue.best.tenant == "a" else 1)
    assert tenants == "abbbabbbabbb"


def test_service_while_a_tenant_runs_counts_against_what_it_has_waiting():
    queue = waiting(arrival(0, "a"), arrival(1, "b"))
    queue.charge("a", 5)
    assert served(queue, 2) == "ba"


def test_a_tenant_that_comes_late_has_no_credit():
    queue = waiting(*(arrival(n, "a") for n in range(20)))
    served(queue, 10)
    for n in range(10):
        queue.add(arrival(20 + n, "b"))
    assert served(queue, 6) == "ababab"


def test_a_tenant_that_left_and_comes_back_owes_what_it_had_more():
    queue = waiting(arrival(0, "a"), arrival(1, "b"), arrival(2, "b"))
    assert served(queue, 1, cost=2) == "a"
    queue.add(arrival(3, "a"))
    assert served(queue, 3) == "bba"


def test_those_that_lost_their_row_come_first_in_the_order_of_their_starts():
    queue = waiting(arrival(0, "a"), sequence(0, 7, "b"), sequence(0, 4, "c"))
    assert [item.tenant for item in queue] == ["c", "b", "a"]
    assert served(queue, 3) == "cba"
    assert not len(queue)


# ---- what waits, of all priorities


def test_a_better_priority_is_served_first_whatever_a_tenant_was_given():
    everything = Waiting()
    late, soon = arrival(0, "a", priority=1), arrival(1, "a", priority=-1)
    everything.add(late)
    everything.add(soon)
    everything.charge(soon, 100)
    assert (everything.best, list(everything), len(everything)) == (soon, [soon, late], 2)
    assert [everything.count(priority) for priority in (-2, -1, 0, 1)] == [0, 1, 1, 2]
    everything.remove(soon)
    everything.remove(late)
    assert (everything.best, len(everything)) == (None, 0)


def test_loads_count_who_waits_with_how_much():
    everything = Waiting()
    items = [arrival(0, "a", prompt=3), arrival(1, "b"), sequence(0, 2, "a", prompt=4), arrival(3, "a", 5)]
    for item in items:
        everything.add(item)
    assert everything.loads() == {(0, "a"): (2, 7), (0, "b"): (1, 1), (5, "a"): (1, 1)}
    for item in items[:2]:
        everything.remove(item)
    assert everything.loads() == {(0, "a"): (1, 4), (5, "a"): (1, 1)}
