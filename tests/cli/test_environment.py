"""Settings of `mosso serve` from the environment: a flag, then MOSSO_*, then NIM_*, then the default."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from mosso.checkpoint.models import find_model, models_folder
from mosso.cli.environment import NIM, FromEnvironment, without_meaning
from mosso.cli.serve_command import command as serve
from mosso.core.errors import UsageError


@pytest.fixture(autouse=True)
def bare(monkeypatch) -> None:
    """No variable of this machine's counts."""
    for name in [*NIM.values(), "NIM_TENSOR_PARALLEL_SIZE", "MOSSO_PORT", "MOSSO_MODELS", "NIM_CACHE_PATH"]:
        monkeypatch.delenv(name, raising=False)


def settings(arguments: list[str], **variables: str) -> dict[str, Any]:
    """What `mosso serve` would be called with."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return serve.make_context("serve", arguments).params


def test_a_flag_then_ours_then_nims_then_the_default():
    both = {"MOSSO_PORT": "1001", "NIM_SERVER_PORT": "1002"}
    assert settings(["--port", "1000"], **both)["port"] == 1000
    assert settings([], **both)["port"] == 1001
    assert settings([], NIM_SERVER_PORT="1002")["port"] == 1002
    assert settings([], MOSSO_PORT="", NIM_SERVER_PORT="1002")["port"] == 1002
    assert settings([])["port"] == 8000


@pytest.mark.parametrize(
    ("variable", "value", "name", "means"),
    [
        ("NIM_MODEL_NAME", "some/folder", "model", "some/folder"),
        ("NIM_SERVED_MODEL_NAME", "gpt-oss", "name", "gpt-oss"),
        ("NIM_MAX_MODEL_LEN", "4096", "max_context", 4096),
        ("NIM_MODEL_PROFILE", "latency", "preset", "latency"),
        ("NIM_KVCACHE_PERCENT", "0.8", "gpu_memory", 0.8),
        ("NIM_ENABLE_KV_CACHE_REUSE", "0", "prefix_cache", False),
        ("NIM_LOG_LEVEL", "ERROR", "log_level", "error"),
        ("MOSSO_ALIAS", "a b", "aliases", ("a", "b")),
        ("MOSSO_MODEL", "20b", "model", "20b"),
    ],
)
def test_each_variable_is_a_setting(variable, value, name, means):
    assert settings([])[name] != means
    assert settings([], **{variable: value})[name] == means


def test_every_flag_has_a_variable_and_nims_belong_to_flags():
    for param in serve.params:
        assert param.envvar[0] == "MOSSO_" + param.opts[0].removeprefix("--").replace("-", "_").upper()
    assert {param.name for param in serve.params} >= NIM.keys()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NIM_SERVER_PORT", "http"),
        ("NIM_SERVER_PORT", "70000"),
        ("MOSSO_PORT", "http"),
        ("NIM_MAX_MODEL_LEN", "1"),
        ("NIM_MODEL_PROFILE", "tensorrt_llm-h100-fp8-tp1"),
        ("NIM_KVCACHE_PERCENT", "90"),
    ],
)
def test_a_wrong_value_is_said_under_the_variables_name(variable, value):
    with pytest.raises(click.BadParameter) as caught:
        settings([], **{variable: value})
    assert f"Invalid value for '{variable}'" in caught.value.format_message()


def test_a_wrong_flag_keeps_its_name():
    with pytest.raises(click.BadParameter) as caught:
        settings(["--port", "http"], NIM_SERVER_PORT="9")
    assert "Invalid value for '--port'" in caught.value.format_message()


@click.command(cls=FromEnvironment)
@click.option("--page-size", type=int)
@click.option("--threads", type=int)
def picky(page_size: int, threads: int) -> None:
    raise UsageError(f"--page-size must be 8 or 16; it is {page_size}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--page-size must be 8 or 16; it is 7; --page-size comes from MOSSO_PAGE_SIZE"),
        (["--page-size", "9"], "--page-size must be 8 or 16; it is 9"),
    ],
)
def test_what_is_found_wrong_later_says_where_it_came_from(arguments, said):
    result = CliRunner().invoke(picky, arguments, env={"MOSSO_PAGE_SIZE": "7", "MOSSO_THREADS": "1"})
    assert isinstance(result.exception, UsageError)
    assert result.exception.message == said


@pytest.mark.parametrize("name", ["NIM_TENSOR_PARALLEL_SIZE", "NIM_PIPELINE_PARALLEL_SIZE"])
def test_one_device_only(name, run, monkeypatch):
    monkeypatch.setenv(name, "2")
    result = run("serve", "--port", "0")
    assert result.exit_code == 1
    assert f"mosso: {name} is '2'" in result.output


def test_variables_without_meaning_are_listed(monkeypatch):
    monkeypatch.setenv("NIM_GUIDED_DECODING_BACKEND", "x")
    monkeypatch.setenv("NIM_TENSOR_PARALLEL_SIZE", "1")
    monkeypatch.setenv("NIM_SERVER_PORT", "1")
    assert without_meaning() == ["NIM_GUIDED_DECODING_BACKEND"]


def test_where_pulled_models_are(monkeypatch, tmp_path):
    assert models_folder().parts[-2:] == ("mosso", "models")
    monkeypatch.setenv("NIM_CACHE_PATH", str(tmp_path / "nim"))
    assert models_folder() == tmp_path / "nim"
    monkeypatch.setenv("MOSSO_MODELS", str(tmp_path / "ours"))
    assert models_folder() == tmp_path / "ours"
    pulled = tmp_path / "ours" / "openai--gpt-oss-20b"
    pulled.mkdir(parents=True)
    assert find_model("20b").folder == pulled
