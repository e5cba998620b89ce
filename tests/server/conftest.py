"""The real server on a real socket, over a scripted token source."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from mosso_fakes import SETTINGS, ScriptedSource, harmony, small_tokenizer
from openai import OpenAI

from mosso.core.requests import Request
from mosso.server.app import create_app
from mosso.server.run import serve as run_server
from mosso.server.settings import ServerSettings

TOKENIZER = small_tokenizer()
ANSWER = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>the Hallö<|return|>"
)


class Running:
    """A server in a thread of its own; `url`, its `source`, and an SDK client."""

    def __init__(self, source: ScriptedSource, **settings: object) -> None:
        self.source = source
        api = replace(SETTINGS, **settings.pop("api", {}))
        tenants = settings.pop("tenants", None)
        batch_store = settings.pop("batch_store", None)
        watchers = settings.pop("watchers", ())
        self.tls = settings.pop("tls", None)
        self.app = create_app(
            source,
            TOKENIZER,
            ServerSettings(api=api, **({"drain_seconds": 2.0} | settings)),
            tenants=tenants,
            batch_store=batch_store,
            watchers=watchers,
        )
        self.url = ""
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(60)
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def _run(self) -> None:
        run_server(self.app, port=0, on_start=self._tell, tls=self.tls)

    def _tell(self, url: str) -> None:
        self.url = url
        self._started.set()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def post(self, path: str, body: object = None, **fields: object) -> httpx.Response:
        return self.http.post(path, json=body, **fields)

    def stop(self) -> None:
        self.client.close()
        self.http.close()
        self.app.state.lifecycle.drain()
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextmanager
def running(source: ScriptedSource, **settings: object) -> Iterator[Running]:
    server = Running(source, **settings)
    try:
        yield server
    finally:
        server.stop()


def follow(script: object) -> ScriptedSource:
    return ScriptedSource(script if callable(script) else lambda request: harmony(TOKENIZER, script))


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits for what another thread is about to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def started() -> Iterator[Callable[..., Running]]:
    servers: list[Running] = []

    def start(script: object = ANSWER, **settings: object) -> Running:
        servers.append(Running(follow(script), **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """serve(script, **settings): a running server that replays a Harmony text."""
    yield from started()


@pytest.fixture(scope="module")
def serve_all() -> Iterator[Callable[..., Running]]:
    """The same, for servers that the tests of a module share."""
    yield from started()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """One server for tests that leave nothing behind."""
    with running(follow(ANSWER)) as server:
        yield server


@pytest.fixture
def soon() -> Callable[..., None]:
    return eventually


class Gate:
    """Holds a source back after `free` events of each request until it is opened."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._passed: Counter[str] = Counter()
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    async def __call__(self, request: Request) -> None:
        self._passed[request.id] += 1
        while self._passed[request.id] > self._free and not self._open.is_set():
            await asyncio.sleep(0.002)


@pytest.fixture
def gate() -> Callable[[int], Gate]:
    return Gate
