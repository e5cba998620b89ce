"""Every shell and Python example of README and site runs on the demo; the site builds without a warning."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
import pytest
from needs import missing

from mosso.cli.main import main
from mosso.core.errors import UsageError
from mosso.tools.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_RUN = {
    "make serve": "it is what the fixture does",
    "make test": "it is what runs this",
    "mosso serve": "it is what the fixture does",
}
ONLY_NAMED = {"mosso bench table", "mosso chat [MODEL or URL]", "mosso serve [MODEL]"}
HERE = re.compile(r"(127\.0\.0\.1|localhost):8000")


@contextmanager
def serving(*arguments: str, folder: Path = ROOT) -> Iterator[str]:
    """Address and port of `mosso serve`, which must end well."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mosso.cli", "serve", *arguments, "--port", "0", "--log-level", "error"],
        stdout=subprocess.PIPE, text=True, cwd=folder, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    found = re.search(r"http://([\d.:]+)", process.stdout.readline())
    assert found
    yield found.group(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    with serving() as address:
        yield address


def examples(language: str) -> list[object]:
    found = []
    for page in PAGES:
        blocks = [code for kind, code in FENCE.findall(page.read_text()) if kind == language]
        if blocks:
            found.append(pytest.param(blocks, id=page.stem))
    return found


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("blocks", examples("sh"))
def test_shell_examples(blocks, demo, tmp_path):
    """A page's blocks one after another in one folder; a curl must find what it asks for."""
    for block in blocks:
        if block.strip() in NOT_RUN:
            continue
        out = run(["bash", "-euc", HERE.sub(demo, block)], tmp_path)
        if block.startswith("curl"):
            assert '"error"' not in out, out


@pytest.mark.parametrize("blocks", examples("python"))
def test_python_examples(blocks, demo, tmp_path):
    """A page's blocks are one program."""
    script = tmp_path / "page.py"
    script.write_text(HERE.sub(demo, "\n".join(blocks)))
    run([sys.executable, str(script)], tmp_path)


def test_examples_are_found():
    assert len(examples("sh")) >= 5
    assert len(examples("python")) >= 3


def test_fences_are_of_kinds_that_are_run():
    """Commands that need a GPU, a download or another program stand indented, without a language."""
    for page in PAGES:
        kinds = {kind for kind, _ in FENCE.findall(page.read_text())}
        assert kinds <= {"sh", "python"}, page


def shown_commands() -> list[str]:
    """What stands indented or within a sentence, as it needs a GPU, a download or a file to be run."""
    text = "\n".join(page.read_text() for page in PAGES)
    indented = re.findall(r"^    (mosso [^\n&]+)", text, re.MULTILINE)
    found = (*indented, *re.findall(r"`(mosso [a-z]+ [^`]+)`", text))
    return sorted({" ".join(line.split()) for line in found} - ONLY_NAMED)


@pytest.mark.parametrize("line", shown_commands())
def test_commands_that_are_only_shown_would_be_taken(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(line)[1:]
    for argument in arguments:
        if argument.endswith((".json", ".jsonl", "FILE", "CAPSULE")):
            Path(argument).parent.mkdir(exist_ok=True)
            Path(argument).touch()
    command: click.Command = main
    parent = click.Context(main)
    while isinstance(command, click.Group):
        name, found, arguments = command.resolve_command(parent, arguments)
        assert found is not None
        command, parent = found, click.Context(found, parent, name)
    command.make_context(name, arguments, parent)


SERVERS = [line for line in shown_commands() if line.startswith("mosso serve ")]


@pytest.mark.parametrize("line", SERVERS)
def test_servers_that_are_only_shown_would_serve(line, tmp_path, monkeypatch):
    """With the demo for a model that is not here; programs of others would start when they are needed."""
    if "--python-tool" in line and (why := asyncio.run(no_sandbox())):
        missing(why)
    tools = (ROOT / "docs/tools.md").read_text()
    (servers,) = re.findall(r"^    (\{\"mcpServers\".*(?:\n     .*)*)", tools, re.MULTILINE)
    (tmp_path / "servers.json").write_text(servers)
    monkeypatch.setenv("TOKEN", "secret")
    with serving(*shlex.split(line.replace(" 20b", " demo"))[2:], folder=tmp_path) as address:
        assert httpx.get(f"http://{address}/v1/health/ready", timeout=60).status_code == 200


async def no_sandbox() -> str | None:
    """Why there is none here, for the model's own python."""
    try:
        await Sandbox().check()
    except UsageError as error:
        return error.message
    return None


def test_a_capsule_is_replayed_as_shown(tmp_path):
    (line,) = [line for line in shown_commands() if re.match(r"mosso replay DIR/\S+$", line)]
    with serving("--capsule-dir", str(tmp_path)) as address:
        body = {"prompt": "Hello", "max_tokens": 4}
        asked = {"X-Mosso-Capsule": "1"}
        httpx.post(
            f"http://{address}/v1/completions", json=body, headers=asked, timeout=60
        ).raise_for_status()
    (capsule,) = tmp_path.glob("*.json")
    run(["bash", "-euc", re.sub(r"DIR/\S+", shlex.quote(str(capsule)), line)], tmp_path)


def test_a_part_of_the_tests_need_not_cover_everything():
    outer = {"ARGS", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES"}  # of the make that may have started this
    environment = {name: value for name, value in os.environ.items() if name not in outer}

    def commands(*arguments: str) -> str:
        make = ["make", "--dry-run", "test", *arguments]
        return subprocess.run(make, cwd=ROOT, env=environment, capture_output=True, text=True).stdout

    assert "--cov-fail-under" in commands()
    assert "--cov" not in commands("ARGS=-k harmony")


def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [BIN / "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "http.html").read_text()
    assert "POST /v1/responses" in page
    assert "GET /v1/models" in page
    for path in tmp_path.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', path.read_text())
        assert loaded == [], "a page loads nothing from elsewhere"
