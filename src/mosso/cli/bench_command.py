"""`mosso bench`: the engine alone, or a server over HTTP."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import click

from mosso.cli import bench_accuracy, bench_engine, bench_kernels, bench_overhead, bench_overload, bench_table
from mosso.cli.engine_options import engine_options, engine_settings
from mosso.cli.ranges import FiniteRange
from mosso.core.counting import counted
from mosso.core.errors import UsageError

USERS = 8  # of bench serve, where neither their number nor a rate is given


@click.group("bench")
def command() -> None:
    """Measure speed. Absolute figures on a shared CPU mean little: compare two things in one run."""


for each in (bench_accuracy, bench_engine, bench_kernels, bench_overhead, bench_overload, bench_table):
    command.add_command(each.command)


@command.command("start")
@click.argument("model", default="demo")
@engine_options
def start(model: str, **options: Any) -> None:
    """From this command's first moment to the first token of MODEL, by phases.

    On a GPU the first start compiles kernels; to see it again, point TRITON_CACHE_DIR at an empty folder.
    """
    from mosso.bench.start import measure
    from mosso.checkpoint.models import find_model

    phases, notes = asyncio.run(measure(engine_settings(find_model(model).folder, options)))
    from mosso.bench.provenance import provenance  # imports torch: not in the start that is measured

    for line in (*notes, *(f"{seconds:8.2f} s  {stage}" for stage, seconds in phases.items())):
        click.echo(line)
    total = sum(phases.values())
    click.echo(
        json.dumps({"bench": "start", "model": model, **provenance(), "total": total, "phases": phases})
    )


@command.command("soak")
@click.argument("model", default="demo")
@click.option(
    "--minutes",
    default=1.0,
    show_default=True,
    type=FiniteRange(min=0, min_open=True),
    help="Of traffic; requests in hand are finished after it.",
)
@click.option("--seed", default=0, show_default=True, help="Of the traffic.")
@click.option("--check", is_flag=True, help="Verify the scheduler's invariants after every step (slow).")
@engine_options
def soak(model: str, minutes: float, seed: int, check: bool, **options: Any) -> None:
    """Random traffic and aborts against the engine of MODEL: does anything leak, break or go wrong?

    To see preemptions, give --kv-memory less than --max-rows requests of 4000 tokens need.
    """
    from mosso.bench.provenance import provenance

    found = asyncio.run(_soak(model, 60 * minutes, seed, check, options))
    click.echo(json.dumps({"bench": "soak", "model": model, **provenance(), **found}))
    if found["wrong"]:
        raise UsageError(f"{counted(found['wrong'], 'thing')} went wrong; the first: {found['findings'][0]}")


async def _soak(
    model: str, seconds: float, seed: int, check: bool, options: dict[str, Any]
) -> dict[str, Any]:
    from mosso.bench.soak import soak
    from mosso.checkpoint.models import find_model
    from mosso.engine.client import EngineClient

    settings = replace(engine_settings(find_model(model).folder, options), check=check)
    client = await EngineClient.start(settings)
    try:
        for note in client.notes:
            click.echo(note)
        return await soak(client, seconds, seed, click.echo)
    finally:
        await client.close()


@command.command("serve")
@click.argument("model", metavar="[MODEL|URL]", default="demo")
@click.option("--users", type=click.IntRange(min=1), help=f"Clients at once; default: {USERS}.")
@click.option(
    "--rate",
    type=FiniteRange(min=0, min_open=True),
    help="Instead of --users: requests a second, at random moments (Poisson).",
)
@click.option(
    "--requests", default=64, show_default=True, type=click.IntRange(min=1), help="Requests in all."
)
@click.option(
    "--prompt-tokens",
    "--words",
    "prompt_tokens",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Tokens in, about: that many common words.",
)
@click.option(
    "--output", default=128, show_default=True, type=click.IntRange(min=1), help="Tokens out, at most."
)
@click.option(
    "--ignore-eos", is_flag=True, help="Every answer has all --output tokens (mosso and vLLM know how)."
)
@click.option("--completions", is_flag=True, help="Text completions, not chats: for random weights.")
@click.option("--api-key", envvar="OPENAI_API_KEY", help="For a URL that asks for one.")
@click.option("--name", help="Which of a server's models; default: its first.")
@engine_options
def serve(
    model: str,
    users: int | None,
    rate: float | None,
    requests: int,
    prompt_tokens: int,
    output: int,
    ignore_eos: bool,
    completions: bool,
    api_key: str | None,
    name: str | None,
    **engine: Any,
) -> None:
    """A server over HTTP (any OpenAI-compatible URL, or MODEL served here): latency and throughput."""
    from mosso.bench.provenance import provenance
    from mosso.bench.serve import Load, measure
    from mosso.cli.chat_command import connected

    if users is not None and rate is not None:
        raise UsageError("--rate stands instead of --users: give one of them")
    users = users or USERS
    load = Load(users, requests, prompt_tokens, output, rate, ignore_eos, completions, api_key)
    who = counted(users, "user") if rate is None else f"{rate:g} requests/s"
    with connected(model, api_key, engine, notes=True) as client:
        click.echo(f"{counted(requests, 'request')} to {client.url} from {who}", err=True)
        found = measure(client.url, name or client.first_model(), load)
    click.echo(
        f"{found['output_rate']:.1f} tokens/s from {who}, {found['failed']} failed; "
        f"{found['seconds']:.1f} s, {found['prompt_tokens']} tokens in, {found['output_tokens']} out"
    )
    bench_overhead.tell_times(found)
    click.echo(json.dumps({"bench": "serve", "model": model, **provenance(), **found}))
    if found["failed"]:
        raise UsageError(f"{counted(found['failed'], 'request')} failed; the first: {found['first_error']}")
