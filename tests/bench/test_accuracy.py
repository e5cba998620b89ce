"""The errors, the reference pass, and what the command makes of a table; the GPU path needs a GPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from mosso.bench import accuracy
from mosso.bench.accuracy import Error, GpuRows, reference
from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.random_weights import write_random
from mosso.cli import bench_accuracy
from mosso.cli.bench_accuracy import failures, line
from mosso.cli.main import main
from mosso.core.config import ModelConfig
from mosso.model.gpu_loading import load_gpu_weights
from mosso.model.gpu_operations import TWINS, deterministic
from mosso.model.loading import load_weights

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
GOOD = {"what": "8 tokens against float32", "rms": 0.004, "worst": 0.005, "bfloat16_rms": 0.005}
GOOD |= {"bfloat16_worst": 0.006, "within": True, "same_argmax": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accuracy") / "model"
    write_random(folder, CONFIG, device="cpu")
    return folder


def test_errors_are_relative_to_what_is_right() -> None:
    want = torch.tensor([3.0, -4.0])
    found = Error.of(torch.tensor([3.0, -3.0]), want)
    assert found.rms == pytest.approx(1 / 5)
    assert found.worst == pytest.approx(1 / 4)
    assert math.isnan(Error.of(torch.tensor([math.nan, 0.0]), want).rms)


def test_the_reference_is_the_same_however_it_is_cut(model, monkeypatch) -> None:
    with open_checkpoint(model) as checkpoint:
        weights = load_weights(checkpoint, dtype=torch.float32, experts="expanded")
    tokens = torch.randint(0, 512, (70,), generator=torch.Generator().manual_seed(1)).tolist()
    whole = reference(weights, CONFIG, tokens)
    monkeypatch.setattr(accuracy, "REFERENCE_CHUNK", 33)
    torch.testing.assert_close(reference(weights, CONFIG, tokens), whole, rtol=1e-4, atol=1e-5)
    assert whole.shape == (512,)


def test_rows_of_the_gpu_path_agree_with_the_reference_however_they_are_computed(model) -> None:
    """With the twins, in float32, here; what a GPU adds to it is its kernels."""
    with open_checkpoint(model) as checkpoint:
        gpu = load_gpu_weights(checkpoint, torch.device("cpu"))
        plain = load_weights(checkpoint, dtype=torch.bfloat16, experts="expanded")
    tokens = torch.randint(0, 512, (40,), generator=torch.Generator().manual_seed(2)).tolist()
    rows = GpuRows(gpu, CONFIG, 2, 48, ops=TWINS)
    for row in (0, 1):
        rows.write(row, tokens)
    whole = rows.prefill(0, 0, 40, 64)
    rows.prefill(1, 0, 38, 7)
    decoded = [rows.decode([1], [position])[0] for position in (38, 39)][-1]
    for logits in (whole, decoded):
        assert Error.of(logits, reference(plain, CONFIG, tokens)).rms < 0.03
    both = rows.decode([0, 1], [39, 39])
    assert Error.of(both[0], both[1]).rms < 0.03


def run(model: Path, monkeypatch: pytest.MonkeyPatch, *rows: dict[str, object]):
    monkeypatch.setattr(bench_accuracy, "require_cuda", lambda *_: None)
    monkeypatch.setattr(accuracy, "measure", lambda folder, lengths: iter(rows))
    return CliRunner().invoke(main, ["bench", "accuracy", str(model), "--length", "8"])


def test_good_rows_end_in_one_json_line(model, monkeypatch) -> None:
    result = run(model, monkeypatch, GOOD)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "bf16 rms" in lines[0]
    assert json.loads(lines[-1])["rows"] == [GOOD]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"within": False, "rms": 0.02}, "0.02000, bfloat16's own error is 0.00500"),
        ({"rms": math.nan, "within": False}, "NaN"),
        ({"what": "64 rows, deterministic", "equal_bits": False}, "other bits"),
    ],
)
def test_a_row_outside_the_bar_fails_the_command(model, monkeypatch, change, said) -> None:
    result = run(model, monkeypatch, GOOD, GOOD | change)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "1 of 2 fail" in result.stderr


def test_two_ways_may_differ_by_bfloat16s_own_error_and_no_more() -> None:
    want = torch.tensor([[3.0, -4.0]])
    got = want + torch.tensor([[0.0, 1.0]])  # off by a fifth
    fine = accuracy._agreement("whole and in chunks", got, want, TWINS, 0.3)
    assert (fine["equal_bits"], fine["within"], failures([fine])) == (False, True, [])
    far = accuracy._agreement("whole and in chunks", got, want, TWINS, 0.1)
    assert failures([far]) == ["whole and in chunks: 0.20000, bfloat16's own error is 0.10000"]
    same = accuracy._agreement("rows", got, want, deterministic(TWINS), 0.3)
    assert failures([same]) == ["rows, deterministic: other bits"]


def test_what_has_no_column_is_named() -> None:
    text = line({"what": "transformers", "same_argmax": 1.0, "our_rms": 0.25})
    assert "1.000" in text
    assert text.endswith("our_rms 0.25000")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what there is without a GPU")
def test_without_a_gpu_it_says_so_and_needs_no_triton(model) -> None:
    code = "import sys; sys.modules['triton'] = None; from mosso.cli import main; main()"
    command = [sys.executable, "-c", code, "bench", "accuracy", str(model)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "bench accuracy measures the GPU path: this machine has no CUDA device" in result.stderr
    assert not result.stdout
