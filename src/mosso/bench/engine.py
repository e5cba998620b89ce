"""The engine without HTTP: decode steps and prefill apart, beside their floor.

A step gives every row one token, so the gaps between one row's tokens are the engine's steps. Those count
that lie between the moment the last request got its first token and the moment the first one ended: then
every row decodes and none is in its prompt. The rows' contexts are then, on average, prompt + output / 2.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean, median

from mosso.core.config import ModelConfig
from mosso.core.counting import counted
from mosso.core.errors import EngineError, UsageError
from mosso.core.requests import FinishReason, Request, SamplingParams
from mosso.core.source import TokenSource

SETTLE = 3  # the first full-batch steps, which do not count: the last prompts' own step reaches into them
FEWEST_STEPS = 4  # that count, for a median that means something


@dataclass(frozen=True, slots=True)
class Shape:
    """`batch` requests at once, each with `prompt` random tokens in and `output` tokens out."""

    batch: int
    prompt: int
    output: int

    @property
    def tokens(self) -> int:
        """Of context, at the end of all."""
        return self.batch * (self.prompt + self.output)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When, on one clock, requests were handed over and each of their tokens came; seconds."""

    start: float
    times: Sequence[Sequence[float]]


Drive = Callable[[Sequence[Request]], Awaitable[Arrivals]]
"""Runs requests to their ends, all at once."""


@dataclass(frozen=True, slots=True)
class Decode:
    """One shape's decode steps, in seconds; the rate in tokens a second over all rows."""

    batch: int
    prompt: int
    output: int
    steps: int  # with all rows decoding, that counted
    step: float  # their median
    mean: float
    p99: float
    rate: float  # batch / mean
    first_token: float  # until the last request had its first token

    @classmethod
    def of(cls, shape: Shape, arrivals: Arrivals) -> Decode:
        """Raises UsageError where too few steps had all rows."""
        steps = full_steps(arrivals)[SETTLE:]
        if len(steps) < FEWEST_STEPS:
            found = counted(len(steps), "step")
            raise UsageError(
                f"batch {shape.batch}: {found} had all rows decoding, after the first {SETTLE}: "
                "too few to measure; give a larger --output, or --preset throughput: it reads prompts faster"
            )
        first = max(times[0] for times in arrivals.times) - arrivals.start
        ordered, mean = sorted(steps), fmean(steps)
        p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
        return cls(
            **asdict(shape), steps=len(steps), step=median(steps), mean=mean, p99=p99,
            rate=shape.batch / mean, first_token=first,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prefill:
    """Prompts alone: each request ends with its first token."""

    prompts: int
    length: int
    seconds: float
    rate: float  # prompt tokens a second

    @classmethod
    def of(cls, shape: Shape, arrivals: Arrivals) -> Prefill:
        seconds = max(times[-1] for times in arrivals.times) - arrivals.start
        return cls(shape.batch, shape.prompt, seconds, shape.batch * shape.prompt / seconds)


def full_steps(arrivals: Arrivals) -> list[float]:
    """Seconds of the steps in which every request got a token that was not its first."""
    end = min(times[-1] for times in arrivals.times)
    last = max(arrivals.times, key=lambda times: times[0])
    return [after - before for before, after in pairwise(last) if after <= end]


async def measure_decode(drive: Drive, config: ModelConfig, shape: Shape, runs: int = 1) -> Decode:
    """The run with the median step of `runs`; of an even number the slower one of the middle."""
    found = [
        Decode.of(shape, await drive(tuple(make_requests(config, shape, seed=run)))) for run in range(runs)
    ]
    return sorted(found, key=lambda decode: decode.step)[runs // 2]


async def measure_prefill(
    drive: Drive, config: ModelConfig, prompts: int, length: int, runs: int = 1
) -> Prefill:
    """The median of `runs`; of an even number the slower one of the middle."""
    shape = Shape(prompts, length, 1)
    found = [
        Prefill.of(shape, await drive(tuple(make_requests(config, shape, seed=run)))) for run in range(runs)
    ]
    return sorted(found, key=lambda prefill: prefill.seconds)[runs // 2]


def make_requests(config: ModelConfig, shape: Shape, seed: int = 0) -> Iterator[Request]:
    """Random prompts, so that a prefix cache has none of them; no stop ids, so that every row runs on."""
    rng = random.Random(f"{seed}/{shape}")
    ids = range(config.vocab_size)
    for index in range(shape.batch):
        prompt = tuple(rng.choices(ids, k=shape.prompt))
        name = f"bench-{seed}-{shape.batch}x{shape.prompt}-{index}"
        yield Request(name, prompt, SamplingParams(max_tokens=shape.output))


async def drive_source(source: TokenSource, requests: Sequence[Request]) -> Arrivals:
    """A `Drive` of an engine in a process of its own, as the server sees it."""
    start = time.perf_counter()
    times = await asyncio.gather(*(_times(source, request) for request in requests))
    return Arrivals(start, times)


async def _times(source: TokenSource, request: Request) -> list[float]:
    """When each token of the request arrived."""
    times: list[float] = []
    async for event in source.stream(request):
        times.extend([time.perf_counter()] * len(event.tokens))
        if event.finish is FinishReason.ERROR:
            raise EngineError(event.error or "the engine failed a request")
    check_length(request, times)
    return times


def check_length(request: Request, times: Sequence[float]) -> None:
    """A request that did not run its length is no measurement of its shape: EngineError."""
    if len(times) != request.sampling.max_tokens:
        raise EngineError(f"{request.id} ended after {len(times)} of {request.sampling.max_tokens} tokens")
