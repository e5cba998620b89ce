"""A server that is asked for many times what it can do: does it keep its word to those whom it lets in?

Three phases. Alone: one request after the other, half of them at the very end, as the machine may not be the
same by then. Capacity: many clients, each asking again as soon as it is answered or refused. Overload:
requests at random moments, `factor` times as many a second as the phase before saw answered, whatever becomes
of them. All are alike: text completions of a fixed length, each with a prompt of its own. A request's clock
starts before it connects.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any
from urllib.parse import SplitResult, urlsplit

import uvloop

from mosso.bench.serve import Answer, Load, Result, call_of, percentiles, read_answer, send
from mosso.core.counting import counted
from mosso.core.parent import end_with_parent

Say = Callable[[str], None]

AGAIN_SECONDS = 0.2  # after which a refused client of the capacity phase asks again: that must cost little
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *[1-9]\d*\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Overload:
    """Words of a prompt and tokens of an answer, clients of the capacity phase, and the phases' lengths."""

    words: int = 32
    output: int = 64
    users: int = 16
    factor: float = 10.0
    alone_requests: int = 100
    capacity_seconds: float = 20.0
    seconds: float = 120.0
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: when it was made, when its answer had ended, and what came. Status 0: no answer."""

    asked: float
    ended: float
    answer: Answer | str

    @property
    def status(self) -> int:
        found = _STATUS.match(self._start)
        return int(found[1]) if found else 0

    @property
    def says_when(self) -> bool:
        """Whether a refusal says when to come back."""
        return _RETRY_AFTER.search(self._start.partition(b"\r\n\r\n")[0] + b"\r\n") is not None

    @property
    def seconds(self) -> float:
        return self.ended - self.asked

    @property
    def _start(self) -> bytes:
        return b"" if isinstance(self.answer, str) else b"".join(data for _, data in self.answer.pieces[:2])


def measure(url: str, model: str, load: Overload, say: Say) -> dict[str, Any]:
    """Put `load` on the server whose API is at `url` (it ends in /v1), from a process of its own.

    `say` is called there, with a line as each phase begins; it must survive pickling.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
        return pool.submit(_measured, url, model, load, say).result()


def _measured(url: str, model: str, load: Overload, say: Say) -> dict[str, Any]:
    return uvloop.run(measure_here(url, model, load, say))


async def measure_here(url: str, model: str, load: Overload, say: Say, seed: int = 0) -> dict[str, Any]:
    """As `measure`, in this process."""
    rng = random.Random(seed)
    target = urlsplit(f"{url}/completions")
    calls = _calls(target, model, load, rng)
    first = load.alone_requests // 2
    say(f"alone: {counted(first, 'request')}, one after the other")
    before = [await _ask(target, next(calls)) for _ in range(first)]
    say(f"capacity: {counted(load.users, 'client')} for {load.capacity_seconds:g} s")
    busy = await _users(target, calls, load)
    capacity = sum(outcome.status == 200 for outcome in busy) / load.capacity_seconds
    rate = load.factor * capacity
    say(f"overload: {rate:.1f} requests/s for {load.seconds:g} s, then those in hand")
    cpu = time.process_time()
    flood = await _arrivals(target, calls, rate, load.seconds, rng)
    cpu = time.process_time() - cpu
    say(f"alone again: {counted(load.alone_requests - first, 'request')}, one after the other")
    after = [await _ask(target, next(calls)) for _ in range(load.alone_requests - first)]
    return {
        "capacity": capacity,
        "asked_rate": rate,
        "alone": _phase(before + after, None),
        "alone_before_ms": percentiles(outcome.seconds for outcome in before),
        "alone_after_ms": percentiles(outcome.seconds for outcome in after),
        "busy": _phase(busy, load.capacity_seconds),
        "overload": _phase(flood, load.seconds),
        "generator_cpu": cpu / load.seconds,
    }


def _calls(target: SplitResult, model: str, load: Overload, rng: random.Random) -> Iterator[bytes]:
    form = Load(1, 1, load.words, load.output, full=True, completions=True, api_key=load.api_key)
    while True:
        yield call_of(target, model, form, rng)


async def _ask(target: SplitResult, call: bytes) -> Outcome:
    asked = time.perf_counter()
    answer = await send(target, call)
    if isinstance(answer, Answer):
        answer.sent = asked
    return Outcome(asked, time.perf_counter(), answer)


async def _users(target: SplitResult, calls: Iterator[bytes], load: Overload) -> list[Outcome]:
    """Those that ended in time, one way or the other."""
    outcomes: list[Outcome] = []
    end = time.perf_counter() + load.capacity_seconds

    async def user() -> None:
        while time.perf_counter() < end:
            outcome = await _ask(target, next(calls))
            if outcome.ended < end:
                outcomes.append(outcome)
            if outcome.status != 200:
                await asyncio.sleep(AGAIN_SECONDS)

    await asyncio.gather(*(user() for _ in range(load.users)))
    return outcomes


async def _arrivals(
    target: SplitResult, calls: Iterator[bytes], rate: float, seconds: float, rng: random.Random
) -> list[Outcome]:
    """One that could not be sent when it was due is sent at once: the rate holds."""
    tasks = []
    due = time.perf_counter()
    end = due + seconds if rate else due
    while due < end:
        await asyncio.sleep(due - time.perf_counter())
        tasks.append(asyncio.create_task(_ask(target, next(calls))))
        due += rng.expovariate(rate)
    return await asyncio.gather(*tasks)


def _phase(outcomes: list[Outcome], seconds: float | None) -> dict[str, Any]:
    accepted = [(outcome, read_answer(outcome.answer)) for outcome in outcomes if outcome.status == 200]
    refused = [outcome for outcome in outcomes if outcome.status == 429]
    good = [(outcome, result) for outcome, result in accepted if result.error is None]
    return {
        "asked": len(outcomes),
        "accepted": len(good),
        "refused": len(refused),
        "failed": len(outcomes) - len(good) - len(refused),
        "output_rate": sum(result.output_tokens for _, result in good) / seconds if seconds else None,
        "whole_ms": percentiles(outcome.seconds for outcome, _ in good),
        "first_token_ms": percentiles(result.first for _, result in good),
        "per_token_ms": percentiles(result.per_token for _, result in good),
        "refused_ms": percentiles(outcome.seconds for outcome in refused),
        "without_retry_after": sum(not outcome.says_when for outcome in refused),
        "first_error": _first_error(outcomes, [result for _, result in accepted]),
    }


def _first_error(outcomes: list[Outcome], results: list[Result]) -> str | None:
    for outcome in outcomes:
        if outcome.status not in (200, 429):
            return read_answer(outcome.answer).error
    return next((result.error for result in results if result.error), None)
