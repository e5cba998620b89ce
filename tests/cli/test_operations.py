"""The flags of `mosso serve` about running it, and what they make."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mosso.cli.operations import Operations, operations_of, operations_options
from mosso.core.errors import UsageError
from mosso.engine.settings import EngineSettings


def parsed(*arguments: str) -> Operations:
    found: list[Operations] = []

    @click.command()
    @operations_options
    def command(**options: Any) -> None:
        options.pop("log_format")
        found.append(operations_of(options))
        assert options == {}

    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


@pytest.fixture
def owned():
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


SOURCE: Any = SimpleNamespace(settings=EngineSettings(Path("/a/model")), notes=("a note",))


def test_by_default_nobody_watches(owned) -> None:
    operations = parsed()
    assert operations.watchers("m", owned)(SOURCE, None) == []
    assert (operations.restarts.restarts, operations.restarts.stalled) == (10, 30.0)


def test_every_flag(owned, tmp_path) -> None:
    folder = tmp_path / "new" / "capsules"
    operations = parsed(
        *("--restarts", "0", "--kill-stuck-after", "0", "--stuck-after", "3"),
        *("--otlp-endpoint", "http://127.0.0.1:9", "--log-prompts"),
        *("--capsule-dir", str(folder), "--capsules", "asked", "--capsule-text"),
    )
    assert (operations.restarts.restarts, operations.restarts.stalled) == (0, None)
    assert operations.stuck_after == 3
    tokenizer: Any = object()
    tracing, capsules, text = operations.watchers("m", owned)(SOURCE, tokenizer)
    assert [type(each).__name__ for each in (tracing, capsules, text)] == ["Tracing", "Capsules", "TextLog"]
    assert folder.is_dir()
    assert (capsules.which, capsules.tokenizer) == ("asked", tokenizer)
    assert capsules.about["model"] == "m"
    assert "/a/model" not in str(capsules.about)
    assert capsules.about["versions"]["mosso"]


def test_a_folder_that_cannot_be_made(owned, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--capsule-dir .*: Not a directory"):
        parsed("--capsule-dir", str(tmp_path / "file" / "c")).watchers("m", owned)


def test_traces_by_variable(owned, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    (tracing,) = parsed().watchers("m", owned)(SOURCE, None)
    assert type(tracing).__name__ == "Tracing"
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert parsed().watchers("m", owned)(SOURCE, None) == []


def test_traces_without_the_extra(owned, monkeypatch, caplog) -> None:
    """Asked for by a flag that is an error; variables may be there for others."""
    monkeypatch.setitem(sys.modules, "mosso.server.tracing", None)
    operations = parsed("--otlp-endpoint", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"--otlp-endpoint: .*pip install 'mosso\[otel\]'"):
        operations.watchers("m", owned)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert replace(operations, otlp_endpoint=None).watchers("m", owned)(SOURCE, None) == []
    assert "pip install" in caplog.text
