"""The soak: that it runs clean on a sound engine, and that it sees what is wrong with another."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from steady_clock import SteadyClock

from mosso.bench.soak import (
    FORMED,
    HOST_GROWTH,
    LONGEST_OUTPUT,
    LONGEST_PROMPT,
    Memory,
    MemoryLog,
    Soak,
    Tally,
    Traffic,
    check_end,
    check_event,
    soak,
    verdict,
)
from mosso.checkpoint.random_weights import write_random
from mosso.cli.main import main
from mosso.core.config import ModelConfig
from mosso.core.requests import (
    EngineLimits,
    EngineStats,
    FinishReason,
    Request,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
)
from mosso.engine.settings import EngineSettings

VOCAB = 512
CONFIG = ModelConfig(
    num_layers=2,
    num_experts=4,
    experts_per_token=2,
    hidden_size=64,
    intermediate_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=VOCAB,
    window=16,
    max_context=1024,
)
LIMITS = EngineLimits(max_context=1024, kv_tokens=4096, max_rows=8, vocab_size=VOCAB)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak") / "model"
    write_random(folder, CONFIG, device="cpu")
    return folder


@pytest.fixture(autouse=True)
def _traffic_outlasts_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else some seconds in which this process stands still are a soak without a request."""
    monkeypatch.setattr("mosso.bench.soak.time", SteadyClock())


@pytest.mark.timeout(240)
def test_a_sound_engine_lasts(model) -> None:
    small = (
        "--threads",
        "1",
        "--max-rows",
        "8",
        "--token-budget",
        "64",
        "--kv-memory",
        "2",
        "--page-size",
        "8",
    )
    result = CliRunner().invoke(main, ["bench", "soak", str(model), "--minutes", "0.084", "--check", *small])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    found = json.loads(lines[-1])
    assert found["wrong"] == 0
    assert found["kv_blocks_held"] == 0
    assert found["requests"] == found["finished"] + found["aborted"] + found["refused"]
    assert found["aborted"] > 0
    assert found["tokens"] > 0
    assert found["formed"] > 0
    assert any("pages held" in line for line in lines)
    assert lines[-2].startswith("nothing wrong")


def event(*tokens: int, logprobs: tuple[TokenLogprob, ...] = (), **more: object) -> TokenEvent:
    return TokenEvent("r", tokens, logprobs, **more)


GOOD = TokenLogprob(3, -1.0, ((3, -1.0),))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (event(VOCAB, logprobs=(GOOD,)), "outside the vocabulary"),
        (event(-1, logprobs=(GOOD,)), "outside the vocabulary"),
        (event(3), "0 log probabilities for 1"),
        (event(4, logprobs=(GOOD,)), "another token"),
        (event(3, logprobs=(TokenLogprob(3, -1.0),)), "another token or number"),
        (event(3, logprobs=(TokenLogprob(3, math.nan, ((3, -1.0),)),)), "that is none"),
        (event(3, logprobs=(TokenLogprob(3, -1.0, ((3, -math.inf),)),)), "that is none"),
        (event(3, logprobs=(TokenLogprob(3, 0.5, ((3, 0.5),)),)), "that is none"),
        (event(3, logprobs=(TokenLogprob(3, -1.0, ((VOCAB, -1.0),)),)), "outside the vocabulary"),
        (event(finish=FinishReason.ERROR, error="boom"), "boom"),
    ],
)
def test_a_wrong_event_is_named(wrong, said) -> None:
    params = SamplingParams(max_tokens=4, logprobs=1)
    assert said in check_event(wrong, params, VOCAB)
    assert check_event(event(3, logprobs=(GOOD,)), params, VOCAB) is None


def test_logprobs_that_nobody_asked_for_are_wrong() -> None:
    assert check_event(event(3, logprobs=(GOOD,)), SamplingParams(max_tokens=4), VOCAB)


def log_of(engine: list[int], device: list[int]) -> MemoryLog:
    log = MemoryLog(1, on_device=False)
    for moment, (host, chip) in enumerate(zip(engine, device, strict=True)):
        log.samples.append(Memory(moment, 1, host, chip))
    return log


def test_growth_is_counted_from_the_first_quarter_on() -> None:
    log = log_of([1, 900, 900, 900, 950, 950, 960, 990, 1000], [5] * 9)
    assert log.growth("engine") == 100
    assert log.growth("device") == 0
    assert MemoryLog(1, on_device=False).growth("engine") is None


@pytest.mark.parametrize(
    ("apps", "expected"), [("7, 3\n42, 5\n", 5), ("7, 3\n", 11), ("42, [N/A]\n", 11), ("", 11)]
)
async def test_the_device_memory_is_the_engines_where_that_is_told(
    tmp_path, monkeypatch, apps, expected
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncase $1 in *apps*) printf '{apps}';; *) echo 11;; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert (await MemoryLog(42, on_device=True).sample()).device == expected << 20
    program.unlink()
    assert (await MemoryLog(42, on_device=True).sample()).device is None


def test_what_remains_and_what_grew_is_named() -> None:
    tally = Tally(tokens=1)
    check_end(tally, EngineStats(), log_of([0, 1, 1, HOST_GROWTH], [1, 1, 1, 1]), HOST_GROWTH)
    assert tally.findings == []
    grown = log_of([1, 1, 1, HOST_GROWTH + 2], [1, 1, 1, 1 << 40])
    check_end(tally, EngineStats(running=1, kv_blocks_held=7), grown, HOST_GROWTH)
    text = "\n".join(tally.findings)
    assert tally.wrong == 4
    assert verdict(tally, grown, HOST_GROWTH) == "4 things wrong"
    for said in ("running is 1", "kv_blocks_held is 7", "engine memory grew", "device memory grew"):
        assert said in text


def test_growth_that_only_kv_pages_excuse_is_told() -> None:
    allowance = HOST_GROWTH + (5 << 20)
    assert verdict(Tally(), log_of([1, 1, 1, HOST_GROWTH], [1] * 4), allowance) == "nothing wrong"
    said = verdict(Tally(), log_of([1, 1, 1, allowance], [1] * 4), allowance)
    assert said.startswith("nothing wrong; the engine grew by 101 MiB, which 5 MiB of KV memory may explain")
    assert verdict(Tally(wrong=1), log_of([1, 1, 1, allowance + 2], [1] * 4), allowance) == "1 thing wrong"


def test_traffic_varies_and_fits() -> None:
    traffic = Traffic(LIMITS, seed=1, formed=FORMED)
    jobs = [traffic.job() for _ in range(3000)]
    possible = [job.request for job in jobs if not job.impossible]
    for request in possible:
        assert 1 <= len(request.prompt) <= LONGEST_PROMPT
        assert 1 <= request.sampling.max_tokens <= LONGEST_OUTPUT
        assert len(request.prompt) + request.sampling.max_tokens <= LIMITS.max_context
        assert max(request.prompt) < VOCAB
    assert 0 < len(jobs) - len(possible) < 90
    assert 0.25 < sum(job.leaves_after is not None for job in jobs) / len(jobs) < 0.4
    assert len({request.prompt[:16] for request in possible}) < len(possible)
    assert 0.05 < sum(request.constraint is not None for request in possible) / len(possible) < 0.15
    assert all(not request.sampling.min_tokens for request in possible if request.constraint is not None)
    free = Traffic(LIMITS, seed=1, formed=0.0)
    assert all(free.job().request.constraint is None for _ in range(100))
    params = [request.sampling for request in possible]
    for varied in (
        lambda p: p.temperature == 0,
        lambda p: p.top_p < 1,
        lambda p: p.top_k > 0,
        lambda p: p.logprobs is not None,
        lambda p: p.has_penalties,
        lambda p: p.stop_ids,
    ):
        assert 0.02 < sum(bool(varied(p)) for p in params) / len(params) < 0.6


class BrokenEngine:
    """Answers every request with one token, `finish` and nothing more; holds pages for ever."""

    pid = 1
    is_alive = True
    limits = LIMITS
    settings = EngineSettings(Path("."), device="cpu", kv_memory=1)

    def __init__(self, finish: FinishReason) -> None:
        self._finish = finish

    async def stream(self, request: Request):
        yield TokenEvent(request.id, (random.randrange(VOCAB),), finish=self._finish)

    async def stats(self) -> EngineStats:
        return EngineStats(kv_blocks_held=3)


@pytest.mark.parametrize("finish", [FinishReason.ABORT, FinishReason.STOP, FinishReason.LENGTH])
async def test_a_broken_engine_is_found_out(monkeypatch, finish) -> None:
    monkeypatch.setattr("mosso.bench.soak.IDLE_SECONDS", 0.1)
    found = await soak(BrokenEngine(finish), 0.5, 0, lambda line: None)
    assert found["wrong"] > 1
    assert any("kv_blocks_held is 3" in sentence for sentence in found["findings"]) or found["wrong"] > 20
    assert any(str(finish) in s or "aborted" in s or "stopped" in s for s in found["findings"])


async def test_an_engine_that_is_gone_ends_the_soak() -> None:
    engine = BrokenEngine(FinishReason.LENGTH)
    engine.is_alive = False
    found = await soak(engine, 600, 0, lambda line: None)
    assert "the engine is gone" in "\n".join(found["findings"])


async def test_a_step_that_hangs_ends_the_watch(monkeypatch) -> None:
    monkeypatch.setattr("mosso.bench.soak.HANG_SECONDS", -1.0)
    with pytest.raises(Exception, match="no step ended"):
        await Soak(BrokenEngine(FinishReason.LENGTH), 0, formed=0.0).watch()
