"""Which steps count, what the figures are made of, and that both ways of driving the engine agree."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from patient_engines import keep_engines_near

from mosso.bench.engine import (
    Arrivals,
    Decode,
    Prefill,
    Shape,
    drive_source,
    full_steps,
    make_requests,
    measure_decode,
    measure_prefill,
)
from mosso.bench.inline import InlineEngine
from mosso.checkpoint.random_weights import write_random
from mosso.cli.main import main
from mosso.core.config import ModelConfig
from mosso.core.errors import EngineError, RequestError, UsageError
from mosso.core.requests import FinishReason, TokenEvent
from mosso.engine.settings import EngineSettings

CONFIG = ModelConfig(
    num_layers=2,
    num_experts=4,
    experts_per_token=2,
    hidden_size=64,
    intermediate_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=512,
    window=16,
    max_context=256,
)
SMALL = ("--device", "cpu", "--threads", "1", "--kv-memory", "4", "--page-size", "8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "model"
    write_random(folder, CONFIG, device="cpu")
    return folder


@pytest.fixture(scope="module")
def settings(model: Path) -> EngineSettings:
    return EngineSettings(model, device="cpu", threads=1, kv_memory=4 << 20, page_size=8, prefix_cache=False)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", "engine", *(str(each) for each in arguments)])


def test_steps_count_from_the_last_first_token_to_the_first_end() -> None:
    early = [1.0, 3.0, 4.0, 6.0, 9.0]  # the first to begin ends first
    late = [3.0, 4.0, 6.0, 9.0, 10.0, 10.5]
    assert full_steps(Arrivals(0.0, [early, late])) == [1.0, 2.0, 3.0]


def test_a_step_is_their_median_and_the_rate_their_mean() -> None:
    times = [1.0, 3.0, 6.0, 10.0, 11.0, 12.0, 13.0, 17.0]  # the first three steps do not count
    found = Decode.of(Shape(2, 8, 8), Arrivals(0.0, [times, times]))
    assert (found.step, found.mean, found.p99, found.steps) == (1.0, 1.75, 4.0, 4)
    assert found.rate == pytest.approx(2 / 1.75)
    assert found.first_token == 1.0


def test_too_few_full_steps_are_no_figure() -> None:
    arrivals = Arrivals(0.0, [[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])  # one ended when the other began
    with pytest.raises(UsageError, match="0 steps had all rows decoding"):
        Decode.of(Shape(2, 8, 3), arrivals)


def test_prefill_counts_all_prompt_tokens_until_the_last_answer() -> None:
    found = Prefill.of(Shape(2, 100, 1), Arrivals(1.0, [[2.0], [3.0]]))
    assert (found.seconds, found.rate) == (2.0, 100.0)


async def test_of_two_runs_the_slower_counts() -> None:
    """The better of two would be a choice in our favour."""
    steps = iter((1.0, 2.0, 1.0, 2.0))

    async def drive(requests) -> Arrivals:
        step = next(steps)
        return Arrivals(0.0, [[step * i for i in range(1, 13)] for _ in requests])

    assert (await measure_decode(drive, CONFIG, Shape(2, 8, 12), runs=2)).step == 2.0
    assert (await measure_prefill(drive, CONFIG, 2, 8, runs=2)).seconds == 24.0


def test_prompts_are_in_the_vocabulary_and_never_the_same() -> None:
    shape = Shape(3, 50, 4)
    requests = [*make_requests(CONFIG, shape, 0), *make_requests(CONFIG, shape, 1)]
    assert len({request.prompt for request in requests}) == len({request.id for request in requests}) == 6
    assert all(len(r.prompt) == 50 and max(r.prompt) < 512 and not r.sampling.stop_ids for r in requests)


async def test_the_engine_here_runs_every_request_to_its_end(settings) -> None:
    engine = InlineEngine(settings)
    shape = Shape(3, 20, 12)
    for seed in range(2):  # again: nothing is left of the first time
        arrivals = await engine.drive(tuple(make_requests(CONFIG, shape, seed)))
        assert [len(times) for times in arrivals.times] == [12] * 3
        assert all(list(times) == sorted(times) for times in arrivals.times)
        assert arrivals.start < min(times[0] for times in arrivals.times)
    assert (await measure_decode(engine.drive, CONFIG, shape, runs=3)).steps >= 6
    assert (await measure_prefill(engine.drive, CONFIG, 4, 30, runs=2)).prompts == 4


async def test_what_the_engine_here_refuses_is_raised(settings) -> None:
    engine = InlineEngine(settings)
    with pytest.raises(RequestError, match="400 tokens"):
        await engine.drive(tuple(make_requests(CONFIG, Shape(1, 400, 2))))


async def test_what_the_engine_here_cut_short_is_no_measurement(settings) -> None:
    engine = InlineEngine(settings)
    with pytest.raises(EngineError, match="ended after 56 of 100 tokens"):
        await engine.drive(tuple(make_requests(CONFIG, Shape(1, 200, 100))))


async def test_the_engine_here_can_be_interrupted(settings) -> None:
    engine = InlineEngine(settings)
    drive = asyncio.create_task(engine.drive(tuple(make_requests(CONFIG, Shape(1, 8, 200)))))
    await asyncio.sleep(0)
    drive.cancel()  # as asyncio does at a Ctrl-C
    with pytest.raises(asyncio.CancelledError):
        await drive


@pytest.mark.parametrize(("name", "opened"), [("trace.json", open), ("trace.json.gz", gzip.open)])
def test_a_profile_is_a_trace_of_the_steps_asked_for(settings, tmp_path, name, opened) -> None:
    engine = InlineEngine(settings)
    file = tmp_path / name
    trace = engine.profile(tuple(make_requests(CONFIG, Shape(2, 8, 40))), file, steps=5)
    assert trace.kernels == ()  # no GPU here
    with opened(file, "rt") as written:
        names = {event.get("name") for event in json.load(written)["traceEvents"]}
    assert any("aten::" in str(name) for name in names)
    with pytest.raises(UsageError, match="--output is too small"):
        engine.profile(tuple(make_requests(CONFIG, Shape(2, 8, 12))), file, steps=20)


class Cut:
    """A source whose requests end after one token."""

    def __init__(self, event: TokenEvent) -> None:
        self._event = event

    async def stream(self, request):
        yield self._event


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (TokenEvent("x", (1,), finish=FinishReason.STOP), "ended after 1 of 4 tokens"),
        (TokenEvent("x", finish=FinishReason.ERROR, error="it broke"), "it broke"),
    ],
)
async def test_a_request_that_did_not_run_its_length_is_no_measurement(event, said) -> None:
    with pytest.raises(EngineError, match=said):
        await drive_source(Cut(event), tuple(make_requests(CONFIG, Shape(1, 8, 4))))


@pytest.mark.parametrize("inline", [(), ("--inline",)])
def test_the_command_prints_floors_rows_and_one_json_line(model, inline, monkeypatch) -> None:
    # 60 tokens: on a busy machine the third request reaches the engine's process some steps after the first,
    # and what several rows got during a pause is read row by row: no step seems to have had all of them.
    keep_engines_near(monkeypatch)
    result = bench(
        model, "--batch", "1,3", "--prompt", "8,16", "--output", 60, "--prefill-prompts", 2, *SMALL, *inline
    )
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert sum(line.startswith("floor: batch") for line in lines) == 4
    assert lines.index(next(line for line in lines if "floor: batch" in line)) < lines.index(
        next(line for line in lines if "share" in line)
    )
    found = json.loads(lines[-1])
    assert [(row["batch"], row["prompt"]) for row in found["decode"]] == [(1, 8), (3, 8), (1, 16), (3, 16)]
    assert [(row["prompts"], row["length"]) for row in found["prefill"]] == [(2, 8), (2, 16)]
    assert found["inline"] is bool(inline)
    for name in ("date", "device", "torch", "command", "kv_tokens", "rates", "settings"):
        assert found[name] is not None
    assert "commit" in found
    for row in found["decode"]:
        assert row["share"] == pytest.approx(row["floor"] / row["step"])


@pytest.mark.parametrize(("output", "why"), [(3, "batch 1: 0 steps had"), (249, "a request of 257 tokens")])
def test_a_shape_without_a_figure_leaves_those_of_the_others(model, output, why) -> None:
    """Too short for one, or longer than the context."""
    shapes = ("--batch", "1", "--prompt", 8, "--output", f"{output},12", "--prefill-prompts", 0)
    result = bench(model, *shapes, *SMALL)
    found = json.loads(result.stdout.splitlines()[-1])
    assert [row["output"] for row in found["decode"]] == [12]
    assert result.exit_code == 1
    assert f"no figure for 1 shape; {why}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--batch", "0"), "whole numbers"),
        (("--batch", "8", "--max-rows", "4"), "--max-rows 4 is less than --batch 8"),
        (("--output", "100", "--profile", "trace.json", *SMALL), "--profile shows what a GPU does"),
        (("--output", "10", "--profile", "trace.json", *SMALL), "--profile shows what a GPU does"),
        (("--batch", "1", "--prompt", "5000", *SMALL), "5000 tokens"),
        (("--batch", "64", "--prompt", "100", *SMALL, "--prefill-prompts", "0"), "of which"),
    ],
)
def test_errors_are_one_sentence(model, arguments, said) -> None:
    result = bench(model, *arguments)
    assert result.exit_code != 0
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_profile_needs_answers_of_some_length(model, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    result = bench(model, "--output", "10", "--profile", "trace.json")
    assert result.exit_code == 1
    assert "--profile needs --output of at least 42" in result.stderr
