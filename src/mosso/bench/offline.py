"""What the server costs: its users' load over HTTP, then the same on its engine alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mosso.bench.engine import Shape, drive_source, make_requests
from mosso.bench.serve import Load
from mosso.core.config import ModelConfig
from mosso.core.counting import counted
from mosso.core.errors import UsageError
from mosso.core.requests import Request
from mosso.core.source import TokenSource

MUST = 0.9  # of the offline rate, at least, at 64 users


@dataclass(frozen=True, slots=True)
class Compared:
    """Output tokens a second of the same load, offline and over HTTP."""

    users: int
    requests: int
    prompt: int  # tokens of a request, on average, as the server counted them
    output: int
    offline_rate: float
    http_rate: float
    share: float  # of the offline rate
    first_token_ms: dict[str, float]  # over HTTP, as all below
    per_token_ms: dict[str, float]
    between_events_ms: dict[str, float]


async def compare(
    source: TokenSource,
    config: ModelConfig,
    load: Load,
    over_http: Callable[[Load], Awaitable[dict[str, Any]]],
) -> Compared:
    """`over_http` puts the load on a server of `source`; its answers must be `full`.

    Both begin with one request a user, which are not counted: what starts up at first use does so there. They
    also tell how many tokens a word is, so that prompts have about as many tokens as the load says words.
    """
    rehearsal = replace(load, requests=load.users, output=8)
    told = _all_answered(await over_http(rehearsal))
    words = max(1, round(load.words * load.users * load.words / told["prompt_tokens"]))
    found = _all_answered(await over_http(replace(load, words=words)))
    prompt = round(found["prompt_tokens"] / load.requests)
    for count, output, seed in ((load.users, 8, -1), (load.requests, load.output, -2)):
        same = tuple(make_requests(config, Shape(count, prompt, output), seed=seed))
        offline = await closed_loop(source, same, load.users)
    rate = found["output_rate"]
    return Compared(
        load.users, load.requests, prompt, load.output, offline, rate, rate / offline,
        found["first_token_ms"], found["per_token_ms"], found["between_events_ms"],
    )  # fmt: skip


async def closed_loop(source: TokenSource, requests: Sequence[Request], users: int) -> float:
    """Output tokens a second with `users` requests under way at once, until all are done."""
    waiting = iter(requests)

    async def user() -> None:
        for request in waiting:
            await drive_source(source, (request,))

    start = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(users)))
    return sum(request.sampling.max_tokens for request in requests) / (time.perf_counter() - start)


def _all_answered(found: dict[str, Any]) -> dict[str, Any]:
    if found["failed"]:
        failed = counted(found["failed"], "request")
        raise UsageError(f"{failed} failed over HTTP; the first: {found['first_error']}")
    return found
