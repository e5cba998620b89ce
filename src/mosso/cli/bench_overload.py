"""`mosso bench overload`: many times more requests than a server can answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click

from mosso.cli.engine_options import engine_options, engine_settings
from mosso.cli.ranges import FiniteRange
from mosso.core.counting import counted
from mosso.core.errors import UsageError

_POSITIVE = FiniteRange(min=0, min_open=True)
_WHOLE = click.IntRange(min=1)
_TIMES = ("whole_ms", "first_token_ms", "per_token_ms")


@click.command("overload")
@click.argument("model", metavar="[MODEL|URL]", default="demo")
@click.option("--minutes", default=2.0, show_default=True, type=_POSITIVE, help="Of overload alone.")
@click.option(
    "--factor", default=10.0, show_default=True, type=_POSITIVE, help="Arrivals, in times of the capacity."
)
@click.option("--prompt-tokens", default=32, show_default=True, type=_WHOLE, help="About: common words.")
@click.option("--output", default=64, show_default=True, type=_WHOLE, help="Tokens of each answer.")
@click.option("--users", default=16, show_default=True, type=_WHOLE, help="Clients that find the capacity.")
@click.option(
    "--max-queue-seconds",
    type=FiniteRange(min=0),
    help="For a MODEL that is served here, as of `mosso serve`; default: 0, nobody waits.",
)
@click.option("--api-key", envvar="OPENAI_API_KEY", help="For a URL that asks for one.")
@click.option("--name", help="Which of a server's models; default: its first.")
@engine_options
def command(
    model: str,
    minutes: float,
    factor: float,
    prompt_tokens: int,
    output: int,
    users: int,
    max_queue_seconds: float | None,
    api_key: str | None,
    name: str | None,
    **engine: Any,
) -> None:
    """Requests at many times the capacity of a server: how it serves those that it takes, and refuses others.

    The whole takes --minutes, 20 seconds in which the capacity is found, and as long as 100 requests take one
    after the other.

    A MODEL is served here with --max-slowdown 1.6 unless told otherwise, so that those it answers hardly feel
    the others. Answers have a fixed length (ignore_eos), which mosso and vLLM know.
    """
    from mosso.bench.overload import Overload, measure
    from mosso.bench.provenance import provenance

    load = Overload(prompt_tokens, output, users, factor, seconds=60 * minutes, api_key=api_key)
    with _served(model, max_queue_seconds, api_key, engine) as (url, first):
        found = measure(url, name or first, load, partial(click.echo, err=True))
    tell(found)
    click.echo(json.dumps({"bench": "overload", "model": model, **provenance(), **found}))
    if not found["capacity"]:
        raise UsageError(f"the server answered nothing: {found['busy']['first_error']}")
    if failed := found["overload"]["failed"]:
        raise UsageError(
            f"{counted(failed, 'request')} failed; the first: {found['overload']['first_error']}"
        )


@contextmanager
def _served(
    model: str, max_queue_seconds: float | None, api_key: str | None, engine: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """The API's address and its first model's name."""
    from mosso.cli.chat_command import connected

    if model.startswith(("http://", "https://")):
        if max_queue_seconds is not None:
            raise UsageError("--max-queue-seconds: the server at a URL has its settings already")
        with connected(model, api_key, engine) as client:
            yield client.url, client.first_model()
        return
    from mosso.checkpoint.models import find_model
    from mosso.cli.serving import LocalServer

    if engine["max_slowdown"] is None:
        engine["max_slowdown"] = 1.6
    found = find_model(model)
    settings = engine_settings(found.folder, engine)
    with LocalServer(found, settings, max_queue_seconds=max_queue_seconds or 0.0) as server:
        for note in server.notes:
            click.echo(note, err=True)
        yield f"{server.url}/v1", found.name


def tell(found: dict[str, Any]) -> None:
    """The figures for a person: those of the overload beside those of one request alone."""
    alone, busy, flood = found["alone"], found["busy"], found["overload"]
    click.echo(
        f"capacity {found['capacity']:.1f} requests/s, {busy['output_rate'] or 0:.0f} tokens/s; asked for "
        f"{found['asked_rate']:.1f} requests/s, the load generator at {found['generator_cpu']:.0%} of a core"
    )
    click.echo(
        f"overload: {flood['asked']} asked, {flood['accepted']} accepted, {flood['refused']} refused, "
        f"{flood['failed']} failed; {flood['output_rate'] or 0:.0f} tokens/s"
    )
    for what in _TIMES:
        for part in ("p50", "p99"):
            before, after = alone[what].get(part), flood[what].get(part)
            if before and after:
                times = after / before
                click.echo(f"{what} {part}: {before:.2f} alone, {after:.2f} overloaded, {times:.2f} times")
    waited = ", ".join(f"{name} {value:.2f}" for name, value in flood["refused_ms"].items())
    click.echo(f"429 after (ms): {waited or '-'}; {flood['without_retry_after']} without Retry-After")
