import random

import pytest

from mosso.core.requests import Request, SamplingParams
from mosso.scheduler.queue import Ranked
from mosso.scheduler.sequence import Sequence


def sequence(priority, arrival):
    request = Request(f"{priority}.{arrival}", (1,), SamplingParams(max_tokens=1), priority=priority)
    return Sequence(request, (priority, arrival), limit=2, tokens=[1])


def test_served_by_priority_then_by_arrival():
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
