"""`mosso eval`: examine the demo model (or any checkpoint) with the demo's problems."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from mosso.checkpoint.models import Model, find_model
from mosso.cli.targets import TargetFile
from mosso.core.errors import UsageError
from mosso.core.requests import FinishReason, Request, SamplingParams
from mosso.core.source import TokenSource
from mosso.harmony.conversation import Channel, Conversation
from mosso.harmony.events import ContentDelta, MessageStarted
from mosso.harmony.parser import StreamParser, parse
from mosso.harmony.renderer import Renderer
from mosso.harmony.tokenizer import Tokenizer
from mosso.train.evaluate import Report, Turn, evaluate, problem_count

BAR = 0.95  # a demo below it does not ship
MAX_TOKENS = 2048


@click.command("eval")
@click.argument("model", default="demo")
@click.option("--seed", default=0, show_default=True, help="Other seeds ask other problems.")
@click.option("--per-skill", default=200, show_default=True, type=click.IntRange(min=1))
@click.option("--temperature", type=float, help="Default: the checkpoint's.")
@click.option("--failures", type=TargetFile(), help="Write what went wrong as JSONL.")
@click.option("--json", "json_path", type=TargetFile(), help="Write the report.")
def command(
    model: str,
    seed: int,
    per_skill: int,
    temperature: float | None,
    failures: Path | None,
    json_path: Path | None,
) -> None:
    """Ask MODEL fresh problems of every skill of the demo, none of which was ever trained on.

    Exits with status 1 when a skill is below 95 % or a turn is not well-formed Harmony.
    """
    found = find_model(model)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("examining", total=problem_count(per_skill))
        report = asyncio.run(_examine(found, seed, per_skill, temperature, lambda: progress.advance(bar)))
    click.echo(report.table())
    if failures is not None:
        lines = (json.dumps(asdict(outcome), ensure_ascii=False) + "\n" for outcome in report.failures)
        failures.write_text("".join(lines), encoding="utf-8")
    if json_path is not None:
        json_path.write_text(json.dumps(report.as_json(), ensure_ascii=False, indent=1), encoding="utf-8")
    weak = [skill for skill, share in report.skills.items() if share < BAR]
    if weak or report.well_formed < 1:
        raise UsageError(f"below the bar: {', '.join(weak) or 'well-formed Harmony'}")


async def _examine(
    model: Model, seed: int, per_skill: int, temperature: float | None, advance: Callable[[], None]
) -> Report:
    from mosso.checkpoint.config import read_generation_defaults
    from mosso.engine.client import EngineClient
    from mosso.engine.settings import EngineSettings

    defaults = read_generation_defaults(model.folder)
    tokenizer = Tokenizer.from_folder(model.folder)
    sampling = SamplingParams(
        max_tokens=MAX_TOKENS,
        temperature=defaults.temperature if temperature is None else temperature,
        top_p=defaults.top_p,
        top_k=defaults.top_k,
        seed=seed,
        stop_ids=tokenizer.stop_ids,
    )
    client = await EngineClient.start(EngineSettings(model.folder))
    try:
        complete = Completer(client, tokenizer, sampling)
        return await evaluate(complete, seed=seed, per_skill=per_skill, concurrency=48, progress=advance)
    finally:
        await client.close()


class Completer:
    """A conversation → the model's turn, straight from the engine: what the parser saw, nothing mended."""

    def __init__(self, source: TokenSource, tokenizer: Tokenizer, sampling: SamplingParams) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self._sampling = sampling
        self._ids = itertools.count()

    async def __call__(self, conversation: Conversation) -> Turn:
        prompt = tuple(self._renderer.render_for_completion(conversation))
        request = Request(f"eval-{next(self._ids)}", prompt, self._sampling)
        tokens: list[int] = []
        finish = None
        async for event in self._source.stream(request):
            tokens += event.tokens
            finish = event.finish
        parser = StreamParser(self._tokenizer)
        thinking = self._thinking_tokens(parser, tokens)
        well_formed = finish is FinishReason.STOP and not parser.repairs
        return Turn(tuple(parse(self._tokenizer, tokens)), well_formed, thinking)

    def _thinking_tokens(self, parser: StreamParser, tokens: list[int]) -> int:
        count, inside = 0, False
        for token in tokens:
            for event in parser.feed(token):
                if isinstance(event, MessageStarted):
                    inside = event.channel == Channel.ANALYSIS
                elif isinstance(event, ContentDelta) and inside:
                    count += 1
        parser.finish()
        return count
