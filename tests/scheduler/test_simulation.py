"""Random arrivals, aborts, stops, preemptions, failures on tiny pools: streams are exact, nothing leaks."""

from __future__ import annotations

import random

import pytest

from mosso.core.errors import OverloadedError
from mosso.core.requests import FinishReason, Request, SamplingParams

SALTS = ("", "", "tenant")


class Clients:
    """Makes requests as clients do: shared system prompts, continued conversations, several tenants."""

    def __init__(self, loop, rng):
        self.loop, self.rng = loop, rng
        self.requests = {}
        self.systems = [self._tokens(n) for n in (9, 16, 23)]

    def _tokens(self, count):
        return tuple(self.rng.randrange(40) for _ in range(count))

    def arrive(self):
        rng, context = self.rng, self.loop.config.context
        ended = [r for r in self.requests.values() if self.loop.finish(r.id) is not None]
        salt = rng.choice(SALTS)
        if ended and rng.random() < 0.4:
            last = rng.choice(ended[-8:])
            prompt, salt = (
                last.prompt + self.loop.tokens(last.id) + self._tokens(rng.randint(1, 6)),
                last.cache_salt,
            )
        else:
            prompt = rng.choice(self.systems)[: rng.randint(1, 23)] + self._tokens(rng.randint(0, 20))
        sampling = SamplingParams(
            max_tokens=rng.choice((1, 2, 8, 30, 1000)),
            stop_ids=frozenset(rng.sample(range(40), rng.randint(0, 3))),
            min_tokens=rng.choice((0, 0, 3)),
            logprobs=rng.choice((None, 0)),
        )
        request = Request(
            id=f"r{len(self.requests)}",
            prompt=prompt[: context - 1],
            sampling=sampling,
            priority=rng.choice((0, 0, 0, 1, 2)),
            cache_salt=salt,
        )
        try:
            self.loop.add(request)
        except OverloadedError:
            return
        self.requests[request.id] = request

    def hang_up(self):
        if self.requests:
            self.loop.abort(self.rng.choice([*self.requests][-12:]))


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    ("seed", "steps", "sizes"),
    [
        (
            1,
            10_000,
            {"full_pages": 24, "window_pages": 20, "max_rows": 5, "token_budget": 24, "max_context": 80},
        ),
        (2, 1_500, {"full_pages": 40, "window_pages": 6, "max_rows": 6, "token_budget": 16, "window": 7}),
        (3, 1_500, {"full_pages": 17, "window_pages": 90, "max_rows": 8, "token_budget": 5, "page_size": 3}),
        (4, 1_500, {"full_pages": 60, "window_pages": 60, "page_size": 1, "window": 3, "max_rows": 4}),
        (5, 1_500, {"full_pages": 40, "window_pages": 12, "window": 1, "max_rows": 7, "token_budget": 9}),
        (8, 1_500, {"full_pages": 30, "window_pages": 30, "token_budget": 40, "prefill_budget": 3}),
        (6, 1_500, {"full_pages": 30, "window_pages": 30, "prefix_cache": False, "max_rows": 6}),
        (7, 1_500, {"full_pages": 30, "window_pages": 40, "window": 100, "page_size": 5}),
    ],
)
def test_streams_are_exact_whatever_happens(make_loop, seed, steps, sizes, depth):
    loop = make_loop(depth, max_waiting=12, **sizes)
    rng = random.Random(seed)
    clients = Clients(loop, rng)
    while len(loop.plans) < steps:
        if rng.random() < 0.25:
            clients.arrive()
        if rng.random() < 0.03:
            clients.hang_up()
        if rng.random() < 0.002:
            loop.fail()
        loop.step()
    loop.drain()

    for request in clients.requests.values():
        loop.verify(request)
    stats = loop.scheduler.stats()
    assert stats.kv_blocks_held == stats.running == stats.waiting == 0
    assert stats.kv_blocks_free + stats.kv_blocks_cached == stats.kv_blocks_total
    assert sum(stats.finished.values()) == len(clients.requests)
    assert set(stats.finished) == {reason.value for reason in FinishReason}
    assert stats.steps + loop.lost == len(loop.plans)
    assert stats.preemptions > 0, "the pools are small enough to matter"
    assert (stats.cached_prompt_tokens > 0) == loop.config.prefix_cache
