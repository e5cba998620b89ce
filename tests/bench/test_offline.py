"""The same load twice: how it is made equal, and what may not pass for an answer."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from mosso.bench.offline import closed_loop, compare
from mosso.bench.serve import Load
from mosso.cli.main import main
from mosso.core.config import GPT_OSS_20B
from mosso.core.errors import UsageError
from mosso.core.requests import FinishReason, Request, SamplingParams, TokenEvent

LOAD = Load(users=3, requests=7, words=30, output=4, full=True, completions=True)


class Source:
    """Gives every request its tokens, one an event; remembers who ran beside whom."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.running = self.most = 0

    async def stream(self, request: Request):
        self.seen.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        for index in range(request.sampling.max_tokens):
            await asyncio.sleep(0.001)
            last = index + 1 == request.sampling.max_tokens
            yield TokenEvent(request.id, (1,), finish=FinishReason.LENGTH if last else None)
        self.running -= 1


def answered(load: Load, failed: int = 0) -> dict[str, object]:
    times = {"p50": 1.0}
    return {
        "failed": failed,
        "first_error": "a wall" if failed else None,
        "prompt_tokens": 41 * load.requests,
        "output_rate": 500.0,
        "first_token_ms": times,
        "per_token_ms": times,
        "between_events_ms": times,
    }


async def test_users_are_as_many_as_asked_for_and_every_token_counts(monkeypatch) -> None:
    source, moments = Source(), iter((100.0, 112.0))
    requests = tuple(
        Request(f"r{i}", (1,), sampling)
        for i, sampling in enumerate([*[_sampling(4)] * 5, *[_sampling(2)] * 5])
    )
    monkeypatch.setattr("mosso.bench.offline.time", SimpleNamespace(perf_counter=lambda: next(moments)))
    rate = await closed_loop(source, requests, users=3)
    assert source.most == 3
    assert len(source.seen) == 10
    assert rate == 30 / 12


def _sampling(tokens: int):
    return SamplingParams(max_tokens=tokens)


async def test_offline_requests_are_as_long_as_the_server_counted() -> None:
    source, loads = Source(), []

    async def over_http(load: Load) -> dict[str, object]:
        loads.append(load)
        return answered(load)

    found = await compare(source, GPT_OSS_20B, LOAD, over_http)
    assert [(load.requests, load.output) for load in loads] == [(3, 8), (7, 4)]
    assert [load.words for load in loads] == [30, 22]  # a word was 41 / 30 tokens
    assert all(load.full and load.completions for load in loads)
    counted = source.seen[3:]
    assert len(counted) == 7
    assert {(len(request.prompt), request.sampling.max_tokens) for request in counted} == {(41, 4)}
    assert found.prompt == 41
    assert found.share == pytest.approx(500.0 / found.offline_rate)


async def test_a_request_that_failed_over_http_is_no_measurement() -> None:
    async def over_http(load: Load) -> dict[str, object]:
        return answered(load, failed=2)

    with pytest.raises(UsageError, match="2 requests failed over HTTP; the first: a wall"):
        await compare(Source(), GPT_OSS_20B, LOAD, over_http)


def test_the_command_compares_one_engine_with_itself() -> None:
    arguments = "bench overhead demo --device cpu --users 2 --requests 4 --prompt-tokens 8 --output 12"
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["requests"] == 4
    assert found["share"] == pytest.approx(found["http_rate"] / found["offline_rate"])
    assert found["first_token_ms"]["p50"] > 0


def test_more_users_than_rows_are_refused() -> None:
    result = CliRunner().invoke(main, ["bench", "overhead", "demo", "--users", "8", "--max-rows", "4"])
    assert result.exit_code == 1
    assert "--max-rows 4 is less than --users 8" in result.stderr
    assert "Traceback" not in result.output
