"""Any OpenAI-compatible server over HTTP: time to first token, time between tokens, throughput."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import httpx

WORDS = (
    "time",
    "year",
    "people",
    "way",
    "day",
    "thing",
    "life",
    "child",
    "world",
    "school",
    "state",
    "group",
)


@dataclass(slots=True)
class Result:
    """One request: seconds to its first token, gaps between its events, tokens as the server counted them."""

    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


async def measure(
    url: str, model: str, *, users: int, requests: int, words: int, output: int, seed: int = 0
) -> dict[str, Any]:
    """`users` at once until `requests` are done; each sends `words` words, for up to `output` tokens."""
    rng = random.Random(seed)
    bodies = iter([_body(rng, model, words, output) for _ in range(requests)])
    results: list[Result] = []
    timeout = httpx.Timeout(None, connect=30.0)
    limits = httpx.Limits(max_connections=users)
    async with httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits) as http:

        async def user() -> None:
            for body in bodies:
                results.append(await _request(http, body))

        start = time.perf_counter()
        await asyncio.gather(*(user() for _ in range(users)))
        seconds = time.perf_counter() - start
    return _summary(results, seconds, users)


def _body(rng: random.Random, model: str, words: int, output: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": " ".join(rng.choices(WORDS, k=words))}],
        "max_tokens": output,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _request(http: httpx.AsyncClient, body: dict[str, Any]) -> Result:
    result = Result()
    start = last = time.perf_counter()
    try:
        async with http.stream("POST", "/chat/completions", json=body) as response:
            if response.is_error:
                result.error = (await response.aread()).decode(errors="replace")[:200]
                return result
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                now = time.perf_counter()
                chunk = json.loads(line[6:])
                if usage := chunk.get("usage"):
                    result.prompt_tokens = usage["prompt_tokens"]
                    result.output_tokens = usage["completion_tokens"]
                elif not result.first:
                    result.first = now - start
                else:
                    result.gaps.append(now - last)
                last = now
    except httpx.HTTPError as error:
        result.error = f"{type(error).__name__}: {error}"
    return result


def _summary(results: list[Result], seconds: float, users: int) -> dict[str, Any]:
    good = [result for result in results if result.error is None]
    return {
        "users": users,
        "requests": len(results),
        "failed": len(results) - len(good),
        "seconds": seconds,
        "prompt_tokens": sum(result.prompt_tokens for result in good),
        "output_tokens": sum(result.output_tokens for result in good),
        "output_rate": sum(result.output_tokens for result in good) / seconds,
        "first_token_ms": _percentiles([result.first for result in good]),
        "between_events_ms": _percentiles([gap for result in good for gap in result.gaps]),
        "first_error": next((result.error for result in results if result.error), None),
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {"p50": 1e3 * seconds[0]} if seconds else {}
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {f"p{n}": 1e3 * cuts[n - 1] for n in (50, 90, 99)}
