"""`mosso check`: does a server speak as its clients expect? Ours, vLLM, Ollama, llama.cpp, any other."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace

import click
from rich.console import Console

from mosso.check.case import Case
from mosso.check.examination import Outcome, Report, Result, chosen, examine
from mosso.check.table import table
from mosso.cli.ranges import FiniteRange
from mosso.cli.terminal import harmless


@click.command("check")
@click.argument("url", metavar="URL")
@click.option("--model", help="The name to ask for; the server's first model without it.")
@click.option("--api-key", envvar="OPENAI_API_KEY", help="For a server that asks for one.")
@click.option("--only", metavar="NAME", multiple=True, help="A case or a group of them; may be repeated.")
@click.option("--timeout", type=FiniteRange(1), default=120.0, show_default=True, help="Seconds a request.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(
    url: str, model: str | None, api_key: str | None, only: tuple[str, ...], timeout: float, as_json: bool
) -> None:
    """Examine the OpenAI-compatible server at URL, as its clients see it.

    Chat (streamed and not), tools, structured output, the Responses API, errors, concurrency, Harmony's
    pitfalls, and the Anthropic and Ollama dialects where they are there. A case passes, fails with a sentence
    of why, or is skipped: what the server does not claim to do is no fault. The exit status is 0 if nothing
    failed, else 1.
    """
    cases = chosen(only)
    report = asyncio.run(_examined(url, cases, model, api_key, timeout, quiet=as_json))
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        Console(highlight=False).print(table(_harmless(report)))
    sys.exit(0 if report.passed else 1)


def _harmless(report: Report) -> Report:
    """What the server said stands in it."""
    results = tuple(replace(result, why=harmless(result.why)) for result in report.results)
    return replace(report, model=harmless(report.model), results=results)


async def _examined(
    url: str, cases: tuple[Case, ...], model: str | None, api_key: str | None, timeout: float, *, quiet: bool
) -> Report:
    """The report; meanwhile a person sees which case is done."""
    done = 0

    def told(result: Result) -> None:
        nonlocal done
        done += 1
        mark = "" if result.outcome is not Outcome.FAILED else " FAILED"
        if not quiet and sys.stderr.isatty():
            click.echo(f"\r\033[K{done}/{len(cases)} {result.name}{mark}", nl=done == len(cases), err=True)

    return await examine(url, cases, model=model, api_key=api_key, timeout=timeout, told=told)
