"""The demo behind the real server in a process of its own: what a person who types `make serve` has."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from engine_gate import Gate
from openai import OpenAI


@dataclass
class DemoServer:
    """`client` is shared by the tests and closed with the server."""

    process: subprocess.Popen[str]
    url: str
    client: OpenAI

    def held_blocks(self) -> float:
        """KV blocks that requests hold now, as /metrics says."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        found = re.search(r'^mosso:kv_blocks{.*state="held"} (\S+)$', text, re.MULTILINE)
        assert found
        return float(found.group(1))

    def holds_nothing(self) -> bool:
        """Whether no request holds a block, or none does soon: the engine tells it after the last answer."""
        end = time.monotonic() + 60
        while self.held_blocks() and time.monotonic() < end:
            time.sleep(0.05)
        return self.held_blocks() == 0


@contextmanager
def serving(log: Path, *flags: str) -> Iterator[DemoServer]:
    """The demo with more flags; what it logs goes to `log`."""
    with log.open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mosso.cli", "serve", "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"the server said {line!r} and {log.read_text()}"
        url = found.group().rstrip("/")
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
            yield DemoServer(process, url, client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def module_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """For servers that start from here on."""
    with pytest.MonkeyPatch.context() as patch:
        yield Gate(tmp_path_factory.mktemp("gate"), patch)


@pytest.fixture
def gate(module_gate: Gate) -> Iterator[Gate]:
    """Open after each test."""
    yield module_gate
    module_gate.open()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    log = tmp_path_factory.mktemp("demo") / "log"
    with serving(log, "--log-level", "warning") as server:
        yield server
    assert log.read_text() == "", "a server that is only asked proper things logs no warning"


@pytest.fixture(scope="session")
def serving_demo() -> Callable[..., AbstractContextManager[DemoServer]]:
    """For tests that hurt their server: each has one of its own."""
    return serving
