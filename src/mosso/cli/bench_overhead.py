"""`mosso bench overhead`: what the server loses of the engine's throughput."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mosso.cli.bench_engine import bench_settings
from mosso.cli.engine_options import engine_options

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mosso.bench.offline import Compared
    from mosso.bench.serve import Load
    from mosso.engine.settings import EngineSettings

_AT_LEAST_1 = click.IntRange(min=1)


@click.command("overhead")
@click.argument("model", default="demo")
@click.option("--users", default=64, show_default=True, type=_AT_LEAST_1, help="Clients at once.")
@click.option("--requests", default=256, show_default=True, type=_AT_LEAST_1, help="Requests in all.")
@click.option("--prompt-tokens", default=1024, show_default=True, type=_AT_LEAST_1, help="Tokens in, about.")
@click.option("--output", default=256, show_default=True, type=_AT_LEAST_1, help="Tokens out.")
@engine_options
def command(model: str, users: int, requests: int, prompt_tokens: int, output: int, **options: Any) -> None:
    """Output tokens a second of MODEL over HTTP, as a share of what its engine gives without.

    One engine serves both: first behind the API (streamed text completions of full length, sent by a process
    of its own), then the same number of requests of the same size handed to it directly.
    """
    from mosso.bench.provenance import provenance
    from mosso.bench.serve import Load
    from mosso.server.run import run

    settings = bench_settings(model, (users,), options, flag="--users")
    load = Load(users, requests, prompt_tokens, output, full=True, completions=True)
    found = run(lambda: _measure(model, settings, load))
    click.echo(
        f"{users} users, {requests} requests of {found.prompt} tokens in and {output} out: "
        f"{found.http_rate:,.0f} tok/s over HTTP, {found.offline_rate:,.0f} offline: {found.share:.1%}"
    )
    tell_times(asdict(found))
    click.echo(json.dumps({"bench": "overhead", "model": model, **provenance(), **asdict(found)}))


def tell_times(found: dict[str, Any]) -> None:
    """A line for each time that was seen: answers of few tokens have no gaps."""
    for what in ("first_token_ms", "per_token_ms", "between_events_ms"):
        if values := found[what]:
            click.echo(f"{what}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()))


async def _measure(model: str, settings: EngineSettings, load: Load) -> Compared:
    from mosso.bench.offline import compare
    from mosso.checkpoint.config import read_config
    from mosso.checkpoint.models import find_model
    from mosso.cli.serving import server_settings, serving

    options = server_settings(find_model(model), drain_seconds=0.0)
    async with serving(settings, options) as (app, client), loads_on(app) as over_http:
        for note in client.notes:
            click.echo(note)
        return await compare(client, read_config(settings.model), load, over_http)


@asynccontextmanager
async def loads_on(app: FastAPI) -> AsyncIterator[Callable[[Load], Awaitable[dict[str, Any]]]]:
    """Puts loads on the app, which is served on a loopback port until the block ends."""
    from mosso.bench.serve import measure
    from mosso.cli.client import ChatClient
    from mosso.server.run import bind, serve_async, url_of

    ready = asyncio.Event()
    with bind("127.0.0.1", 0) as sock:
        served = asyncio.create_task(serve_async(app, sock, ready.set))
        await ready.wait()
        client = ChatClient(url_of(sock))
        name = await asyncio.to_thread(client.first_model)
        try:
            yield lambda load: asyncio.to_thread(measure, client.url, name, load)
        finally:
            client.close()
            app.state.lifecycle.drain()
            await served
