"""The engine without HTTP: prefill and decode apart, for each batch size, beside their floor."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from mosso.core.config import ModelConfig
from mosso.core.requests import Request, SamplingParams
from mosso.core.source import TokenSource


@dataclass(frozen=True, slots=True)
class Shape:
    """`batch` requests at once, each with `prompt` random tokens in and `output` tokens out."""

    batch: int
    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Times in seconds; rates in tokens a second over all requests of the shape."""

    batch: int
    prompt: int
    output: int
    first_token: float  # until every request has its first token
    prefill_rate: float
    step: float  # one decode step
    decode_rate: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


async def measure(source: TokenSource, config: ModelConfig, shape: Shape, seed: int = 0) -> Measured:
    """Random prompts, so that the prefix cache has none of them; stop ids off, so that every row runs on.

    The decode rate counts the tokens between the moment the last request got its first token and the moment
    the first one ended, so that only full batches are timed.
    """
    start = time.perf_counter()
    runs = await asyncio.gather(*(_times(source, request) for request in _requests(config, shape, seed)))
    first = max(times[0] for times in runs)
    end = min(times[-1] for times in runs)
    tokens = sum(sum(first < moment <= end for moment in times) for times in runs)
    rate = tokens / (end - first) if end > first else float("nan")
    return Measured(
        batch=shape.batch,
        prompt=shape.prompt,
        output=shape.output,
        first_token=first - start,
        prefill_rate=shape.batch * shape.prompt / (first - start),
        step=shape.batch / rate,
        decode_rate=rate,
    )


def _requests(config: ModelConfig, shape: Shape, seed: int) -> Iterator[Request]:
    rng = random.Random(f"{seed}/{shape}")
    for index in range(shape.batch):
        prompt = tuple(rng.randrange(config.vocab_size) for _ in range(shape.prompt))
        yield Request(f"bench-{seed}-{shape}-{index}", prompt, SamplingParams(max_tokens=shape.output))


async def _times(source: TokenSource, request: Request) -> list[float]:
    """When each token of the request arrived."""
    times: list[float] = []
    async for event in source.stream(request):
        times.extend([time.perf_counter()] * len(event.tokens))
    return times
