"""What the owner of a key may still use: requests and tokens a minute, requests at once, tokens in all.

A request is counted when it comes. Tokens are taken in advance, by an estimate, and put right when it is
known what was used, so that many requests that come at once cannot all pass under one limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from mosso.core.errors import OverloadedError, QuotaError
from mosso.server.buckets import TokenBucket

BUSY_SECONDS = 1.0  # after which one who has too many requests open may look again


@dataclass(frozen=True, slots=True)
class Limits:
    """Each at least 1; None: no limit. `token_quota` is for all time."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    token_quota: int | None = None


LIMIT_NAMES = tuple(field.name for field in fields(Limits))
RATE_HEADERS = tuple(
    f"x-ratelimit-{value}-{kind}"
    for kind in ("requests", "tokens")
    for value in ("limit", "remaining", "reset")
)


@dataclass(slots=True)
class Meter:
    """The tokens that one stream has used so far."""

    used: int = 0


class Allowance:
    """One owner's. Used by one thread. `on_used` is told the tokens used in all time whenever they grow."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        clock: Callable[[], float],
        *,
        used: int = 0,
        on_used: Callable[[int], None] = lambda used: None,
    ) -> None:
        self.used = used
        self.open_requests = 0
        self._name = name
        self._clock = clock
        self._on_used = on_used
        self._reserved = 0  # for streams that are open
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        self.limit(limits)

    def limit(self, limits: Limits) -> None:
        """Other limits from now on; what was used stays used."""
        self._limits = limits
        self._requests = self._bucket(self._requests, limits.requests_per_minute)
        self._tokens = self._bucket(self._tokens, limits.tokens_per_minute)

    def _bucket(self, old: TokenBucket | None, per_minute: int | None) -> TokenBucket | None:
        if per_minute is None:
            return None
        if old is None:
            return TokenBucket(per_minute, self._clock)
        old.resize(per_minute)
        return old

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request in hand. OverloadedError where it is one too many now or no tokens are left for it now,
        QuotaError where there are none at all."""
        most = self._limits.concurrency
        if most is not None and self.open_requests >= most:
            raise OverloadedError(
                f"{self._key} has {self.open_requests} requests open, as many as it may have at once.",
                retry_after=BUSY_SECONDS,
            )
        self._check_quota()
        self._check(self._tokens, 1, "tokens")
        self._check(self._requests, 1, "requests")
        if self._requests is not None:
            self._requests.take(1)
        self.open_requests += 1
        try:
            yield
        finally:
            self.open_requests -= 1

    @contextmanager
    def tokens(self, least: int, estimate: int) -> Iterator[Meter]:
        """One stream that will use at least `least` tokens, and about `estimate`; what its meter says at the
        end is what was used. OverloadedError where there is no room for it now, QuotaError if ever."""
        self._check_quota()
        bucket = self._tokens
        if bucket is not None:
            if least > bucket.per_minute:
                raise QuotaError(
                    f"{self._key} may use {bucket.per_minute} tokens a minute; the request needs {least} and "
                    "more.",
                    code="rate_limit_exceeded",
                )
            estimate = min(estimate, bucket.per_minute)
            self._check(bucket, estimate, "tokens")
            bucket.take(estimate)
        self._reserved += estimate
        meter = Meter()
        try:
            yield meter
        finally:
            self._reserved -= estimate
            if bucket is not None:
                bucket.take(meter.used - estimate)
            if meter.used:
                self.used += meter.used
                self._on_used(self.used)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What is left, under OpenAI's names; nothing about what has no limit."""
        found: list[tuple[bytes, bytes]] = []
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                values = {
                    "limit": str(bucket.per_minute),
                    "remaining": str(max(0, math.floor(bucket.level))),
                    "reset": duration(bucket.seconds_to_full),
                }
                found += [(f"x-ratelimit-{n}-{kind}".encode(), v.encode()) for n, v in values.items()]
        return found

    @property
    def _key(self) -> str:
        return f"The API key {self._name!r}"

    def _check_quota(self) -> None:
        quota = self._limits.token_quota
        if quota is not None and self.used + self._reserved >= quota:
            if self.used >= quota:
                raise QuotaError(f"{self._key} has used its quota of {quota} tokens.")
            raise OverloadedError(
                f"{self._key} has open requests that may use what is left of its quota of {quota} tokens.",
                retry_after=BUSY_SECONDS,
            )

    def _check(self, bucket: TokenBucket | None, amount: int, kind: str) -> None:
        if bucket is not None and (wait := bucket.wait(amount)):
            raise OverloadedError(
                f"{self._key} may use {bucket.per_minute} {kind} a minute. "
                f"Please try again in {duration(wait)}.",
                retry_after=wait,
            )


def duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 6s, 1m30s, 2h0m5s. Rounded up."""
    if seconds < 1:
        milliseconds = math.ceil(seconds * 1000)
        return "0s" if not milliseconds else f"{milliseconds}ms" if milliseconds < 1000 else "1s"
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    text = f"{hours}h" if hours else ""
    return text + (f"{minutes}m" if minutes or hours else "") + f"{whole % 60}s"
