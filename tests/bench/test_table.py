"""The bars as data, which of them a figure meets, and the whole command on a model of two layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from mosso.bench.bars import BARS_20B, BARS_120B, Bar, Bars, bars_for
from mosso.bench.table import Figures, Row, render, rows_of
from mosso.checkpoint.config import config_json, read_config
from mosso.checkpoint.random_weights import write_random
from mosso.cli import bench_table
from mosso.cli.main import main
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig
from mosso.core.errors import UsageError
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
TINY = Bars("tiny", {1: Bar(2, 1e9, 1e9), 3: Bar(2, 1e-9, 1e-9)}, Bar(1, 1e-9, 1e12), Bar(1, 8), 8, 16)
ORIGIN = {
    "device": "a GPU", "date": "today", "mosso": "1", "commit": "c0ffee", "torch": "2", "triton": None,
    "command": "mosso bench table m",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table") / "model"
    write_random(folder, CONFIG, device="cpu")
    return folder


def test_a_model_has_the_bars_of_its_shape() -> None:
    assert bars_for(GPT_OSS_20B) is BARS_20B
    assert bars_for(replace(GPT_OSS_120B, max_context=8192)) is BARS_120B
    with pytest.raises(UsageError, match="gpt-oss-20b and gpt-oss-120b only"):
        bars_for(CONFIG)


@pytest.mark.parametrize("bars", [BARS_20B, BARS_120B])
def test_a_checkpoints_config_file_finds_them(bars, tmp_path) -> None:
    known = GPT_OSS_20B if bars is BARS_20B else GPT_OSS_120B
    (tmp_path / "config.json").write_text(json.dumps(config_json(known)))
    assert bars_for(read_config(tmp_path)) is bars


@pytest.mark.parametrize("bars", [BARS_20B, BARS_120B])
def test_aims_are_harder_than_musts(bars) -> None:
    for bar in bars.decode.values():
        assert bar.aim < bar.must < bar.vllm
    for bar in (bars.prefill, bars.kv_tokens):
        assert bar.vllm < bar.must < (bar.aim or 1e12)


@pytest.mark.parametrize(
    ("found", "less", "met"),
    [
        (1.0, True, "aim"),
        (1.0001, True, "must"),
        (2.0, True, "must"),
        (2.0001, True, "no"),
        (None, True, "-"),
        (2.0, False, "aim"),
        (0.9, False, "no"),
    ],
)
def test_a_bar_is_met_before_rounding(found, less, met) -> None:
    bar = Bar(3.0, 2.0, 1.0) if less else Bar(0.5, 1.0, 2.0)
    assert Row("8", 0.5, bar, found, less).met == met


def test_without_an_aim_a_bar_is_met_or_not() -> None:
    assert Row("KV", None, Bar(1, 5), 9, less=False).met == "must"
    assert Row("KV", None, Bar(1, 5), 4, less=False).met == "no"


def test_the_table_has_every_bar_and_shows_what_is_missing() -> None:
    bars = BARS_20B
    figures = Figures({1: 0.00125, 512: 0.00957}, {1: 0.00149}, 122_900.0, 79_999.0, 2_473_088, ["a note"])
    lines = render(bars, figures, ORIGIN).splitlines()
    assert "| batch | floor | vLLM 0.26 | mosso | must | aim | met |" in lines
    assert "| 1 | 1.25 | 3.29 | 1.49 | 1.80 | 1.50 | aim |" in lines
    assert "| 512 | 9.57 | 27.59 | - | 18.00 | 12.80 | - |" in lines
    assert "| prefill tok/s | 122,900 | 78,000 | 79,999 | 80,000 | 100,000 | no |" in lines
    assert "| KV tokens that fit | - | 1,269,839 | 2,473,088 | 2,400,000 | - | must |" in lines
    assert "- a note" in lines
    assert "- `mosso bench table m`" in lines
    assert len(rows_of(bars, figures)) == len(bars.decode) + 2


async def test_one_run_measures_every_bar(model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench_table.bench_engine, "PREFILL_PROMPTS", 2)
    settings = EngineSettings(
        model, device="cpu", threads=1, kv_memory=4 << 20, page_size=8, prefix_cache=False
    )
    out = tmp_path / "table.md"
    assert await bench_table.tabulate("tiny", settings, TINY, out) == []
    printed = capsys.readouterr().out
    assert out.read_text() in printed
    found = json.loads(printed.splitlines()[-1])
    assert [(row["name"], row["met"]) for row in found["rows"]] == [
        ("1", "aim"),
        ("3", "no"),
        ("prefill tok/s", "must"),
        ("KV tokens that fit", "must"),
    ]
    assert all(row["found"] > 0 for row in found["rows"])


async def test_a_batch_without_a_figure_leaves_the_table(model, capsys) -> None:
    settings = EngineSettings(
        model, device="cpu", threads=1, kv_memory=4 << 20, page_size=8, prefix_cache=False
    )
    bars = replace(TINY, decode={1: Bar(2, 1, 1)}, output=3)
    (said,) = await bench_table.tabulate("tiny", settings, bars, None)
    assert "too few to measure" in said
    assert "| 1 | " in capsys.readouterr().out


def test_errors_are_one_sentence(model, tmp_path, monkeypatch) -> None:
    def said(*arguments: object) -> str:
        result = CliRunner().invoke(main, ["bench", "table", *map(str, arguments)])
        assert result.exit_code != 0
        assert "Traceback" not in result.output
        return result.stderr

    out = tmp_path / "table.md"
    assert "gpt-oss-20b and gpt-oss-120b only" in said("demo", "--out", out)
    assert "gpt-oss-20b and gpt-oss-120b only" in said("demo")
    monkeypatch.setattr("mosso.bench.bars._shape", lambda config: ())
    assert "there is no folder" in said(model, "--out", tmp_path / "none" / "table.md")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "this machine has no CUDA device" in said(model, "--out", out)
    assert not out.exists()
