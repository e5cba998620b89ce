"""The commands that need no server, and the mistakes that people make with all of them."""

from __future__ import annotations

import json
import os
import socket
from functools import partial

import click
import pytest

from mosso.cli.engine_options import NAMES, engine_settings, memory
from mosso.cli.main import COMMANDS
from mosso.engine.settings import EngineSettings


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_plan_needs_no_files(run) -> None:
    result = run("plan", "20b")
    assert result.exit_code == 0
    assert "20.91 B parameters" in result.output
    assert "experts (MXFP4, as stored)" in result.output
    assert "tokens of KV that fit 73.6 GiB" in result.output


def test_gpu_memory_is_a_share_or_bytes() -> None:
    param = click.Option(["--gpu-memory"])
    read = partial(memory, click.Context(click.Command("serve")), param)
    assert read(None) is None
    assert read("0.93") == 0.93
    assert read("16GiB") == read("16g") == 16 << 30
    assert read("1.5 GiB".replace(" ", "")) == 3 << 29
    for wrong in ("0", "-1", "lots", "16X", "93", "12K", "9" * 400, f"{'9' * 30}T"):
        with pytest.raises(click.BadParameter):
            read(wrong)


def test_flags_that_were_not_given_keep_their_defaults(tmp_path) -> None:
    given = dict.fromkeys(NAMES) | {"kv_memory": 64, "prefix_cache": False, "other": 1}
    assert engine_settings(tmp_path, given) == EngineSettings(
        tmp_path, kv_memory=64 << 20, prefix_cache=False
    )
    assert given == {"other": 1}


def test_plan_takes_the_presets_sizes(run) -> None:
    assert "windows of 256 sequences" in run("plan", "20b").output
    assert "windows of 128 sequences" in run("plan", "120b").output
    assert "windows of 32 sequences" in run("plan", "120b", "--preset", "latency").output
    assert "windows of 5 sequences" in run("plan", "120b", "--max-rows", 5).output


def test_plan_says_for_which_gpu_it_is(run) -> None:
    assert "on a GPU of 80 GB; --memory plans for another" in run("plan", "20b").output
    for given in (("--memory", 14.9), ("--device", "cpu")):
        assert "80 GB" not in run("plan", "20b", *given).output


def test_plan_says_when_nothing_fits(run) -> None:
    for model, hint in (("120b", "missing"), ("20b", "--max-rows and --token-budget need less")):
        result = run("plan", model, "--memory", 12)
        assert result.exit_code == 1
        assert "does not fit 12 GiB" in result.output
        assert result.output.rstrip().endswith(hint)


def test_20b_fits_a_gpu_of_16_gb_as_it_is(run) -> None:
    result = run("plan", "20b", "--memory", 14.6)  # 0.93 of the 15.7 GiB that such a GPU reports
    assert result.exit_code == 0
    assert "windows of 64 sequences" in result.output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("--device", "cpu", "--kv-dtype", "float8"),
            "--kv-dtype must be auto or --dtype (float32) on the CPU",
        ),
        (("--dtype", "float32"), "--dtype must be bfloat16 on CUDA"),
        (("--experts", "expanded"), "--experts must be packed on CUDA"),
    ],
)
def test_plan_refuses_what_serve_would_refuse(run, given, message) -> None:
    result = run("plan", "20b", *given)
    assert result.exit_code == 1
    assert message in result.output


def test_plan_reads_a_folder(run) -> None:
    assert "8 layers" in run("plan", "demo", "--device", "cpu").output


def test_random_writes_what_plan_and_serve_read(run, tmp_path) -> None:
    first = run("random", tmp_path / "m", "tiny")
    assert first.stdout == f"wrote tiny of 4 layers with random weights to {tmp_path / 'm'}\n"
    assert "4 layers" in run("plan", tmp_path / "m").output
    again = run("random", tmp_path / "m", "tiny")
    assert again.exit_code == 1
    assert again.output.startswith("mosso: "), "no bar is drawn"
    assert (
        "wrote tiny of 1 layer" in run("random", tmp_path / "m", "tiny", "--overwrite", "--layers", 1).output
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "nowhere"), "no model 'nowhere'"),
        (("serve", "./nowhere"), "there is no folder ./nowhere"),
        (("chat", "127.0.0.1:8000"), "did you mean http://127.0.0.1:8000?"),
        (("plan", "20b", "--memory", "0"), "--memory"),
        (("plan", "20b", "--memory", "1e305"), "--memory"),
        (("serve", "openai/gpt-oss-20b"), "mosso pull openai/gpt-oss-20b"),
        (("serve", "model.gguf"), "GGUF"),
        (("serve", "demo", "--port", "0", "--page-size", "17"), "--page-size"),
        (("serve", "demo", "--port", "0", "--threads", "100000"), "--threads must be 1 to 1024"),
        (("serve", "demo", "--port", "0", "--kv-memory", "999999999"), "--kv-memory"),
        (("serve", "demo", "--drain", "-1"), "--drain"),
        (("serve", "demo", "--drain", "nan"), "nan is not a finite number"),
        (("serve", "demo", "--store-days", "inf"), "inf is not a finite number"),
        (("serve", "demo", "--gpu-memory", "most"), "such as 0.93"),
        (("serve", "demo", "--preset", "fast"), "--preset"),
        (
            ("serve", "demo", "--port", "0", "--device", "cpu", "--kv-dtype", "float8"),
            "--kv-dtype must be auto",
        ),
        (("chat", "http://127.0.0.1:1", "--preset", "latency"), "--preset: the engine behind a URL"),
        (("plan", "nowhere"), "no model 'nowhere': give demo, 20b, 120b, a folder, or the hub id"),
        (("chat", "http://127.0.0.1:1"), "no server answers"),
        (("pull", "no such thing"), "no hub id"),
        (("eval", "--json", "none/report.json"), "there is no folder none"),
        (("eval", "--failures", "none/wrong.jsonl"), "there is no folder none"),
        (("bench", "engine", "--output", "100", "--profile", "none/trace.json"), "there is no folder none"),
        (("bench", "table", "20b", "--out", "none/table.md"), "there is no folder none"),
        (("random", "out", "tiny", "--layers", "5"), "--layers must be 1 to 4, all that the model has"),
        (("frobnicate",), "No such command"),
    ],
)
def test_a_mistake_gets_one_clear_line(run, arguments, said) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_folder_that_cannot_be_written_is_named_before_the_work(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    result = run("eval", "--json", tmp_path / "report.json")
    assert result.exit_code != 0
    assert "cannot be written" in result.output


def test_a_port_in_use_is_named(run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("serve", "--port", port)
    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in result.output
    assert f"--port {port + 1}" in result.output


def test_serve_names_a_folder_without_a_checkpoint(run, tmp_path) -> None:
    result = run("serve", tmp_path, "--port", 0)
    assert result.exit_code == 1
    assert result.output.endswith(f"mosso: {tmp_path}: holds no checkpoint, as it has no config.json\n")


def test_serve_names_a_broken_config(run, tmp_path) -> None:
    run("random", tmp_path / "m", "tiny")
    config = tmp_path / "m" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"model_type": "llama", "architectures": ["Llama"]}))
    result = run("serve", tmp_path / "m", "--port", 0)
    assert result.exit_code == 1
    assert "config.json" in result.output
