"""What a key's owner may still use: counted, reserved, put right, and told."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosso.core.errors import OverloadedError, QuotaError
from mosso.server.allowances import Allowance, Limits, duration


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def one(allowance):
    with allowance.request():
        pass


def use(allowance, tokens, *, least=0, estimate=0):
    with allowance.tokens(least, estimate or tokens) as meter:
        meter.used = tokens


def told(allowance):
    return {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in allowance.headers()}


def test_without_limits_nothing_is_refused_and_nothing_told(clock):
    allowance = Allowance("ann", Limits(), clock)
    for _ in range(100):
        one(allowance)
        use(allowance, 10**9)
    assert allowance.headers() == []
    assert allowance.used == 100 * 10**9


def test_requests_a_minute(clock):
    allowance = Allowance("ann", Limits(requests_per_minute=2), clock)
    one(allowance)
    one(allowance)
    with pytest.raises(OverloadedError, match=r"'ann' may use 2 requests a minute.*in 30s") as raised:
        one(allowance)
    assert raised.value.retry_after == 30
    assert told(allowance) == {"limit-requests": "2", "remaining-requests": "0", "reset-requests": "1m0s"}
    clock.now += 30
    one(allowance)


def test_requests_at_once(clock):
    allowance = Allowance("ann", Limits(concurrency=2, requests_per_minute=3), clock)
    with allowance.request(), allowance.request(), pytest.raises(OverloadedError, match="2 requests open"):
        one(allowance)
    assert told(allowance)["remaining-requests"] == "1", "what is refused costs nothing"
    one(allowance)
    assert allowance.open_requests == 0


def test_tokens_are_reserved_and_put_right(clock):
    allowance = Allowance("ann", Limits(tokens_per_minute=1000), clock)
    with allowance.tokens(100, 600) as meter:
        assert told(allowance)["remaining-tokens"] == "400"
        with pytest.raises(OverloadedError, match=r"1000 tokens a minute.*in 12s"):
            use(allowance, 0, estimate=600)
        meter.used = 250
    assert told(allowance) == {"limit-tokens": "1000", "remaining-tokens": "750", "reset-tokens": "15s"}


def test_more_than_was_thought_is_owed(clock):
    allowance = Allowance("ann", Limits(tokens_per_minute=60), clock)
    use(allowance, 120, estimate=60)
    assert told(allowance)["remaining-tokens"] == "0"
    with pytest.raises(OverloadedError, match="in 1m1s"):
        one(allowance)
    clock.now += 61
    one(allowance)


def test_an_estimate_above_the_limit_waits_for_a_full_bucket_and_a_prompt_above_it_is_refused(clock):
    allowance = Allowance("ann", Limits(tokens_per_minute=100), clock)
    use(allowance, 10, least=90, estimate=5000)
    with pytest.raises(OverloadedError, match="in 6s"):
        use(allowance, 10, least=90, estimate=5000)
    with pytest.raises(QuotaError, match="the request needs 101") as raised:
        use(allowance, 10, least=101, estimate=5000)
    assert raised.value.code == "rate_limit_exceeded"


def test_a_quota_is_for_all_time(clock):
    written = []
    allowance = Allowance("ann", Limits(token_quota=100), clock, used=40, on_used=written.append)
    use(allowance, 50)
    assert written == [90]
    with allowance.tokens(0, 10) as meter:
        with pytest.raises(OverloadedError, match="open requests"):
            use(allowance, 1)
        meter.used = 10
    for refused in (one, lambda a: use(a, 1)):
        with pytest.raises(QuotaError, match="quota of 100 tokens"):
            refused(allowance)
    clock.now += 10**9
    with pytest.raises(QuotaError):
        one(allowance)
    allowance.limit(Limits(token_quota=101))
    one(allowance)


def test_other_limits_from_now_on(clock):
    allowance = Allowance("ann", Limits(requests_per_minute=5), clock)
    one(allowance)
    allowance.limit(Limits(requests_per_minute=2, tokens_per_minute=7))
    assert told(allowance)["remaining-requests"] == "1"
    assert told(allowance)["remaining-tokens"] == "7"
    allowance.limit(Limits())
    assert told(allowance) == {}


amounts = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.booleans()), max_size=20)


@given(amounts)
def test_reservations_come_back_whatever_happens(streams):
    allowance = Allowance("ann", Limits(tokens_per_minute=10**6, token_quota=10**6), Clock())
    used = 0
    with ExitStack() as open_streams:
        for estimate, tokens, fails in streams:
            try:
                with allowance.tokens(0, estimate) as meter:
                    meter.used = tokens
                    if fails:
                        raise KeyError
            except KeyError:
                pass
            open_streams.enter_context(allowance.tokens(0, estimate)).used = tokens
            used += 2 * tokens
    assert allowance.used == used
    assert told(allowance)["remaining-tokens"] == str(10**6 - used)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0001, "1ms"), (0.12, "120ms"), (0.9999, "1s"), (1, "1s"), (5.2, "6s"), (60, "1m0s"),
     (359.9, "6m0s"), (3600, "1h0m0s"), (7325, "2h2m5s")],
)  # fmt: skip
def test_durations_are_written_as_openai_does(seconds, text):
    assert duration(seconds) == text
