"""Token buckets: what they let pass in any span of time, and when."""

import math

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mosso.server.buckets import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


steps = st.lists(st.tuples(st.floats(0, 90), st.integers(1, 100)), max_size=40)


@given(st.integers(1, 100), steps)
def test_in_no_span_more_passes_than_the_bucket_and_its_filling(per_minute, steps):
    clock, taken = Clock(), []
    bucket = TokenBucket(per_minute, clock)
    for seconds, amount in steps:
        clock.now += seconds
        if not bucket.wait(amount):
            bucket.take(amount)
            taken.append((clock.now, amount))
    for first, (start, _) in enumerate(taken):
        for last in range(first, len(taken)):
            span = taken[last][0] - start
            amounts = sum(amount for _, amount in taken[first : last + 1])
            assert amounts <= per_minute * (1 + span / 60) + 1e-3


@given(st.integers(1, 1_000_000), st.data())
def test_who_waits_as_told_gets_it_and_not_much_earlier(per_minute, data):
    clock = Clock()
    bucket = TokenBucket(per_minute, clock)
    bucket.take(data.draw(st.integers(0, 3 * per_minute)))
    amount = data.draw(st.integers(1, per_minute))
    wait = bucket.wait(amount)
    start = clock.now
    clock.now = start + wait * 0.9
    assert bucket.wait(amount) > 0 or wait < 0.001
    clock.now = start + wait
    assert bucket.wait(amount) < 1e-3


def test_more_than_it_holds_never_passes():
    assert TokenBucket(10, Clock()).wait(11) == math.inf


class Settled(RuleBasedStateMachine):
    """Amounts taken by estimate and put right later, against arithmetic in the open."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.bucket = TokenBucket(100, self.clock)
        self.level = 100.0  # what must be in it
        self.open: list[int] = []

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds):
        self.clock.now += seconds
        self.level = min(100.0, self.level + seconds * 100 / 60)

    @rule(estimate=st.integers(1, 100))
    def take(self, estimate):
        if not self.bucket.wait(estimate):
            self.bucket.take(estimate)
            self.level -= estimate
            self.open.append(estimate)

    @precondition(lambda self: self.open)
    @rule(used=st.integers(0, 200), which=st.randoms())
    def settle(self, used, which):
        estimate = self.open.pop(which.randrange(len(self.open)))
        self.bucket.take(used - estimate)
        self.level = min(100.0, self.level - used + estimate)

    @invariant()
    def holds_what_it_must(self):
        assert math.isclose(self.bucket.level, self.level, abs_tol=1e-3)
        assert math.isclose(self.bucket.seconds_to_full, (100 - self.level) * 0.6, abs_tol=1e-3)


TestSettled = Settled.TestCase


def test_another_limit_keeps_what_was_taken():
    clock = Clock()
    bucket = TokenBucket(100, clock)
    bucket.take(30)
    bucket.resize(50)
    assert bucket.level == 20
    bucket.resize(1000)
    assert bucket.level == 970
    clock.now += 60
    assert bucket.level == 1000
