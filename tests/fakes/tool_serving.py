"""The real server in the test's own event loop, over a scripted model, with built-in tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import openai
from mosso_fakes import SETTINGS, MemoryStore, ScriptedSource, small_tokenizer

from mosso.api.responses_toolset import Tools
from mosso.server.app import create_app
from mosso.server.run import bind, serve_async, url_of
from mosso.server.settings import ServerSettings

TOKENIZER = small_tokenizer()


@dataclass(frozen=True)
class Served:
    url: str
    source: ScriptedSource
    client: openai.AsyncOpenAI
    store: MemoryStore


@asynccontextmanager
async def served_with(script: object, tools: Tools) -> AsyncIterator[Served]:
    source, store = ScriptedSource(script), MemoryStore()
    source.max_context = 100_000
    settings = ServerSettings(api=SETTINGS, drain_seconds=1.0)
    app = create_app(source, TOKENIZER, settings, store=store, tools=tools)
    started = asyncio.Event()
    with bind("127.0.0.1", 0) as sock:
        serving = asyncio.create_task(serve_async(app, sock, on_start=started.set))
        await started.wait()
        url = url_of(sock)
        # Of its own accord it waits 5 seconds for a connection, which a busy machine may hold up.
        made = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
        async with made as client:
            try:
                yield Served(url, source, client, store)
            finally:
                app.state.lifecycle.drain()
                await serving
