from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mosso.scheduler.pages import PagePool


def test_a_fresh_pool_is_free_and_hands_out_distinct_pages():
    pool = PagePool(4)
    assert (pool.num_free, pool.num_cached, pool.num_held) == (4, 0, 0)
    assert sorted(pool.take(4, step=0)) == [0, 1, 2, 3]
    assert (pool.num_available, pool.num_held) == (0, 4)


def test_a_released_page_is_free_without_a_key_and_cached_with_one():
    pool = PagePool(4)
    plain, known = pool.take(2, step=0)
    pool.publish(known, b"k")
    pool.release([plain, known])
    assert (pool.num_free, pool.num_cached, pool.num_held) == (3, 1, 0)
    assert pool.find(b"k") == known


def test_shared_pages_come_back_when_the_last_holder_lets_go():
    pool = PagePool(2)
    (page,) = pool.take(1, step=0)
    pool.publish(page, b"k")
    pool.hold([page])
    pool.release([page])
    assert pool.num_held == 1
    pool.release([page])
    assert (pool.num_held, pool.num_cached) == (0, 1)


def test_free_pages_go_first_then_the_least_recently_released():
    pool = PagePool(3)
    a, b, c = pool.take(3, step=0)
    for page, key in ((a, b"a"), (b, b"b")):
        pool.publish(page, key)
    pool.release([b, a, c])
    assert pool.take(1, step=1) == [c]
    pool.hold([b])  # used again: no longer the oldest
    pool.release([b])
    assert pool.take(1, step=1) == [a]
    assert pool.find(b"a") is None
    assert pool.find(b"b") == b


def test_the_first_copy_of_a_content_stays():
    pool = PagePool(2)
    first, second = pool.take(2, step=0)
    pool.publish(first, b"k")
    pool.publish(second, b"k")
    assert pool.find(b"k") == first
    pool.release([second])
    assert pool.num_free == 1


def test_a_page_may_be_written_by_its_only_holder_until_others_can_find_it():
    pool = PagePool(2)
    (page,) = pool.take(1, step=0)
    assert pool.is_private(page)
    pool.publish(page, b"k")
    assert not pool.is_private(page)
    assert not pool.is_private(1 - page), "nobody holds it"


def test_counting_what_a_hit_would_take_from_the_available_pages():
    pool = PagePool(3)
    a, b = pool.take(2, step=0)
    for page, key in ((a, b"a"), (b, b"b")):
        pool.publish(page, key)
    pool.release([a])
    assert pool.count_cached([a, b]) == 1


def cached_pool(total: int, passing: int) -> PagePool:
    """All pages cached, page i with key i; the first `passing` of them in passing."""
    pool = PagePool(total)
    for page in sorted(pool.take(total, step=0)):
        pool.publish(page, b"%d" % page)
        pool.release([page], passing=page < passing)
    return pool


def test_passing_pages_beyond_half_of_the_cache_go_first():
    pool = cached_pool(8, passing=5)
    assert pool.take(3, step=1) == [0, 1, 2], "the oldest of half and more"
    assert pool.take(1, step=1) == [5], "two beside three: now the oldest that is kept"
    assert pool.take(1, step=1) == [3]
    assert [pool.find(b"%d" % page) for page in range(8)] == [None] * 4 + [4, None, 6, 7]


def test_a_passing_page_that_is_hit_is_kept():
    pool = cached_pool(4, passing=4)
    pool.hold([0])
    pool.release([0], passing=True)
    assert pool.take(3, step=1) == [1, 2, 3]
    assert pool.find(b"0") == 0
    assert pool.take(1, step=1) == [0]
    pool.publish(0, b"new")
    pool.release([0], passing=True)
    pool.check(Counter([1, 2, 3]))


def test_the_step_that_took_a_page_last_is_remembered():
    pool = PagePool(1)
    (page,) = pool.take(1, step=3)
    assert pool.taken_after(page, 2)
    assert not pool.taken_after(page, 3)


def test_check_sees_a_leak():
    pool = PagePool(2)
    (page,) = pool.take(1, step=0)
    pool.check(Counter([page]))
    with pytest.raises(AssertionError):
        pool.check(Counter())


class PoolMachine(RuleBasedStateMachine):
    """Holders take, share, publish and release in any order; contents are never confused or lost early."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(6)
        self.held = []  # one entry a reference
        self.contents = {}  # page → key, while somebody refers to it

    @precondition(lambda self: self.pool.num_available)
    @rule(data=st.data())
    def take(self, data):
        pages = self.pool.take(data.draw(st.integers(1, self.pool.num_available)), step=0)
        assert not set(pages) & set(self.held)
        self.held += pages
        for page in pages:
            self.contents.pop(page, None)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), key=st.sampled_from([b"a", b"b", b"c"]))
    def publish(self, data, key):
        page = data.draw(st.sampled_from(self.held))
        if self.contents.get(page) is None:
            self.contents[page] = key if self.pool.find(key) is None else None
            self.pool.publish(page, key)

    @rule(key=st.sampled_from([b"a", b"b", b"c"]))
    def hit(self, key):
        if (page := self.pool.find(key)) is not None:
            assert self.contents[page] == key
            self.pool.hold([page])
            self.held.append(page)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        page = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release([page], passing=data.draw(st.booleans()))
        if page not in self.held and self.contents.get(page) is None:
            assert self.pool.count_cached([page]) == 1

    @invariant()
    def holds(self):
        self.pool.check(Counter(self.held))
        assert self.pool.num_held == len(set(self.held))
        assert self.pool.num_free + self.pool.num_cached + self.pool.num_held == self.pool.total
        for page in self.held:
            if (key := self.contents.get(page)) is not None:
                assert self.pool.find(key) == page, "never evicted while held"


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase
