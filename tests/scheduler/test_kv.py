"""Both groups for one sequence: what a hit may use, what is held, what is let go."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.core.requests import Request, SamplingParams
from mosso.scheduler import SchedulerConfig
from mosso.scheduler.kv import KvCache
from mosso.scheduler.sequence import Sequence


def make_sequence(tokens, salt=""):
    request = Request("r", tuple(tokens), SamplingParams(max_tokens=100), cache_salt=salt)
    return Sequence(request, (0, 0), limit=1000, tokens=list(tokens))


def compute(kv, sequence, chunk):
    """Start the sequence and compute all its tokens, `chunk` positions at a time."""
    kv.start(sequence, kv.match(sequence))
    while sequence.computed < len(sequence.tokens):
        advance(kv, sequence, min(chunk, len(sequence.tokens) - sequence.computed))
    return sequence


def advance(kv, sequence, count):
    pages = kv.extend(sequence, count, step=0)
    sequence.computed += count
    kv.settle(sequence)
    kv.check([sequence])
    return pages


@pytest.fixture
def kv(make_config):
    return KvCache(make_config(page_size=4, window=8))


def test_both_groups_grow_by_the_same_logical_pages(kv):
    sequence = make_sequence(range(10))
    kv.start(sequence, kv.match(sequence))
    full, window = kv.extend(sequence, 10, step=0)
    assert len(full) == len(window) == 3
    sequence.computed = 10
    kv.settle(sequence)
    assert advance(kv, sequence, 2) == ([], [])


def test_window_pages_behind_the_window_are_let_go_but_can_be_hit(kv):
    sequence = compute(kv, make_sequence(range(40)), chunk=40)
    assert len(sequence.full_pages) == 10
    assert sequence.window_first == 8  # position 40 reads 33 .. 40
    assert kv.window.num_held == 2
    assert kv.window.num_cached == 8


def test_a_prefix_is_hit_up_to_the_last_token_but_one(kv):
    kv.release(compute(kv, make_sequence(range(12)), chunk=12))
    assert len(kv.match(make_sequence(range(12))).full_pages) == 2, "one token must be computed"
    match = kv.match(make_sequence(range(13)))
    assert (len(match.full_pages), len(match.window_pages), match.window_first) == (3, 2, 1)
    assert match.next_key is None
    kv.full.check({})
    kv.window.check({})


def test_a_match_names_the_page_that_would_make_it_longer(kv):
    kv.release(compute(kv, make_sequence(range(8)), chunk=8))
    longer = make_sequence(range(20))
    match = kv.match(longer)
    assert len(match.full_pages) == 2
    assert match.next_key == longer.keys[2]


def test_other_salts_and_other_tokens_are_no_hit(kv):
    kv.release(compute(kv, make_sequence(range(12), salt="a"), chunk=12))
    assert not kv.match(make_sequence(range(12), salt="b")).full_pages
    assert not kv.match(make_sequence([9, *range(1, 12)], salt="a")).full_pages


def test_without_the_prefix_cache_nothing_is_kept(make_config):
    kv = KvCache(make_config(prefix_cache=False))
    kv.release(compute(kv, make_sequence(range(40)), chunk=7))
    assert kv.full.num_free == kv.full.total
    assert kv.window.num_free == kv.window.total
    assert kv.match(make_sequence(range(40))).full_pages == ()


def test_a_page_is_published_once_its_tokens_are_known(kv):
    sequence = compute(kv, make_sequence(range(7)), chunk=7)
    sequence.in_flight = 1
    advance(kv, sequence, 1)  # computes position 7, whose token is still being sampled
    assert sequence.published == 1
    sequence.tokens.append(7)
    kv.settle(sequence)
    assert sequence.published == 2


def test_the_end_of_a_sequence_is_evicted_before_its_beginning(make_config):
    kv = KvCache(make_config(page_size=4, window=8, full_pages=4))
    kv.release(compute(kv, make_sequence(range(16)), chunk=16))
    kv.full.take(2, step=1)
    assert len(kv.match(make_sequence(range(17))).full_pages) == 2


def test_starting_needs_room_for_all_known_tokens_beside_what_others_need(make_config):
    kv = KvCache(make_config(page_size=4, window=8, full_pages=5, window_pages=10))
    sequence = make_sequence(range(17))  # five pages
    match = kv.match(sequence)
    assert kv.can_start(sequence, match, reserved=0)
    assert not kv.can_start(sequence, match, reserved=1)
    kv.window.take(8, step=0)
    assert not kv.can_start(sequence, match, reserved=0), "a window at any alignment takes three"


def test_cached_pages_are_not_counted_twice(make_config):
    kv = KvCache(make_config(page_size=4, window=8, full_pages=5, window_pages=10))
    kv.release(compute(kv, make_sequence(range(16)), chunk=16))
    sequence = make_sequence([*range(16), 99, 98, 97, 96, 95])  # six pages
    match = kv.match(sequence)
    assert len(match.full_pages) == 4
    assert not kv.can_start(sequence, match, reserved=0)


def test_cached_window_pages_are_not_counted_twice(make_config):
    kv = KvCache(make_config(page_size=4, window=8, window_pages=4))
    kv.release(compute(kv, make_sequence(range(8)), chunk=4))
    kv.window.take(2, step=0)  # what is left is the two pages of the hit
    sequence = make_sequence(range(9))
    match = kv.match(sequence)
    assert len(match.window_pages) == 2
    assert not kv.can_start(sequence, match, reserved=0)


def test_room_is_what_the_scarcer_group_has(make_config):
    kv = KvCache(make_config(page_size=4, window=8, full_pages=5, window_pages=10))
    sequence = compute(kv, make_sequence(range(6)), chunk=6)
    assert kv.room(sequence) == 2 + 3 * 4
    kv.window.take(7, step=0)
    assert kv.room(sequence) == 2 + 1 * 4


@given(
    st.sets(st.integers(0, 9)),
    st.sets(st.integers(0, 9)),
    st.integers(1, 45),
    st.sampled_from([1, 2, 4, 5, 8, 13, 100]),
)
@settings(max_examples=400, deadline=None)
def test_the_longest_valid_prefix_is_found_whatever_was_evicted(full, window, length, width):
    size = 4
    kv = KvCache(SchedulerConfig(size, 64, 64, width, 1, 64, 1000))
    probe = make_sequence(range(45))
    kv.match(probe)  # makes its keys
    for pool, present in ((kv.full, full), (kv.window, window)):
        for logical, page in zip(sorted(present), pool.take(len(present), step=0), strict=True):
            pool.publish(page, probe.keys[logical])
            pool.release([page])

    def valid(pages):
        positions = range(max(0, pages * size - (width - 1)), pages * size)
        return full.issuperset(range(pages)) and all(p // size in window for p in positions)

    longest = max(pages for pages in range(11) if pages * size <= length - 1 and valid(pages))
    match = kv.match(make_sequence(range(length)))
    assert len(match.full_pages) == longest
    assert match.window_first == min(longest, max(0, longest * size - (width - 1)) // size)
    for pool, pages, first in (
        (kv.full, match.full_pages, 0),
        (kv.window, match.window_pages, match.window_first),
    ):
        assert list(pages) == [pool.find(key) for key in probe.keys[first:longest]]
