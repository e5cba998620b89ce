"""The commands that need no server, and the mistakes that people make with all of them."""

from __future__ import annotations

import json
import socket

import pytest

from mosso.cli.main import COMMANDS


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
    assert "tokens of KV that fit 80 GiB" in result.output


def test_plan_says_when_nothing_fits(run) -> None:
    assert "does not fit 8 GiB" in run("plan", "120b", "--memory", 8).output


def test_plan_reads_a_folder(run) -> None:
    assert "8 layers" in run("plan", "demo", "--device", "cpu").output


def test_random_writes_what_plan_and_serve_read(run, tmp_path) -> None:
    assert run("random", tmp_path / "m", "tiny").exit_code == 0
    assert "4 layers" in run("plan", tmp_path / "m").output
    again = run("random", tmp_path / "m", "tiny")
    assert again.exit_code == 1
    assert "mosso: " in again.output
    assert run("random", tmp_path / "m", "tiny", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "nowhere"), "no model 'nowhere'"),
        (("chat", "127.0.0.1:8000"), "did you mean http://127.0.0.1:8000?"),
        (("plan", "20b", "--memory", "0"), "--memory"),
        (("serve", "openai/gpt-oss-20b"), "mosso pull openai/gpt-oss-20b"),
        (("serve", "model.gguf"), "GGUF"),
        (("serve", "demo", "--port", "0", "--page-size", "17"), "--page-size"),
        (("serve", "demo", "--port", "0", "--threads", "100000"), "--threads must be 1 to 1024"),
        (("serve", "demo", "--port", "0", "--kv-memory", "999999999"), "--kv-memory"),
        (("serve", "demo", "--drain", "-1"), "--drain"),
        (("plan", "nowhere"), "no model 'nowhere'"),
        (("chat", "http://127.0.0.1:1"), "no server answers"),
        (("pull", "no such thing"), "no hub id"),
        (("frobnicate",), "No such command"),
    ],
)
def test_a_mistake_gets_one_clear_line(run, arguments, said) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert said in result.output
    assert "Traceback" not in result.output


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
    assert "config.json" in result.output or "tokenizer" in result.output


def test_serve_names_a_broken_config(run, tmp_path) -> None:
    run("random", tmp_path / "m", "tiny")
    config = tmp_path / "m" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"model_type": "llama", "architectures": ["Llama"]}))
    result = run("serve", tmp_path / "m", "--port", 0)
    assert result.exit_code == 1
    assert "config.json" in result.output
