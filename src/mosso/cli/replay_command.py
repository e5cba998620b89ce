"""`mosso replay`: a request from a capsule, run again, and where the answer differs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from mosso.checkpoint.models import find_model
from mosso.cli.engine_options import engine_options, engine_settings
from mosso.cli.operations import versions
from mosso.core.counting import counted
from mosso.core.errors import MossoError, UsageError
from mosso.core.requests import Request
from mosso.engine.client import EngineClient
from mosso.engine.settings import EngineSettings
from mosso.harmony.tokenizer import Tokenizer
from mosso.server.capsules import CapsuleSequence, read_capsule

CONTEXT = 8  # tokens shown around a difference


@dataclass(frozen=True, slots=True)
class Again:
    """What a sequence gave this time."""

    tokens: list[int]
    finish: str | None
    error: str | None = None


@click.command("replay")
@click.argument("capsule", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("model", required=False)
@engine_options
def command(capsule: Path, model: str | None, **options: Any) -> None:
    """Run the request in CAPSULE again, with MODEL (default: the one it names), and compare token by token.

    Capsules are written by `mosso serve --capsule-dir`. Ends with status 1 where an answer differs.
    """
    read = read_capsule(capsule)
    recorded = read.about.get("versions", {})
    for name, version in versions().items():
        if name in recorded and recorded[name] != version:
            click.echo(f"{name} is {version} here, it was {recorded[name]}")
    found = find_model(model or str(read.about.get("model", "demo")))
    settings = engine_settings(found.folder, options)
    answers = asyncio.run(run_again(settings, [sequence.request for sequence in read.sequences]))
    tokenizer = Tokenizer.from_folder(found.folder)
    same = True
    for number, (before, now) in enumerate(zip(read.sequences, answers, strict=True)):
        lines = differences(before, now, tokenizer)
        click.echo(
            f"sequence {number}: " + "\n  ".join(lines or [f"{counted(len(now.tokens), 'token')}, the same"])
        )
        same = same and not lines
    if not same:
        raise UsageError("the answer differs from the capsule's")


async def run_again(settings: EngineSettings, requests: Sequence[Request]) -> list[Again]:
    """One after another, so that nothing shares a step with them; an error ends its own sequence only."""
    client = await EngineClient.start(settings)
    try:
        return [await _run(client, replace(request, id=f"replay-{i}")) for i, request in enumerate(requests)]
    finally:
        await client.close()


async def _run(client: EngineClient, request: Request) -> Again:
    tokens: list[int] = []
    finish = error = None
    try:
        async for event in client.stream(request):
            tokens += event.tokens
            finish, error = event.finish, event.error
    except MossoError as failure:
        return Again(tokens, None, failure.message)
    return Again(tokens, finish, error)


def differences(before: CapsuleSequence, now: Again, tokenizer: Tokenizer) -> list[str]:
    """In words; nothing where it is the same. Of an answer that was left or aborted only its part counts."""
    found = []
    if before.thinking_ended is not None:
        found.append(
            f"note: its thinking was ended by hand after {before.thinking_ended} tokens, now it is not"
        )
    if (before.error is None) != (now.error is None):
        found.append(f"error: it was {before.error!r}, it is {now.error!r}")
    cut = before.finish in (None, "abort", "error")
    tokens = now.tokens[: len(before.tokens)] if cut else now.tokens
    pairs = zip(before.tokens, tokens, strict=False)
    at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if at < max(len(before.tokens), len(tokens)):
        found.append(f"token {at} of {len(before.tokens)} differs (there are {len(tokens)} now)")
        for name, ids in (("it was", before.tokens), ("it is ", tokens)):
            shown = tokenizer.decode(ids[max(0, at - CONTEXT) : at + CONTEXT], control=True)
            found.append(f"{name} {ids[at : at + 1]} in {shown!r}")
    elif not cut and before.finish != now.finish:
        found.append(f"it ended with {before.finish!r}, now with {now.finish!r}")
    return found
