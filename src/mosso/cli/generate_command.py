"""`mosso generate`: a file of requests, answered as fast as the engine can, resumed where it stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mosso.cli.chat_command import connected
from mosso.cli.engine_options import brief_engine_options
from mosso.core.errors import UsageError

RETRY_SECONDS = 1.0
TIMEOUT = httpx.Timeout(None, connect=30.0)  # an answer may take as long as it takes


@dataclass(frozen=True, slots=True)
class Line:
    """One request: its identity in the output, where it goes, what it says."""

    id: str
    url: str
    body: dict[str, Any]


@click.command("generate")
@click.argument("source", metavar="IN.jsonl", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUT.jsonl", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", metavar="MODEL|URL", default="demo", show_default=True)
@click.option("--concurrency", type=click.IntRange(1, 4096), default=64, show_default=True)
@click.option("--api-key", envvar="OPENAI_API_KEY", help="For a URL that asks for one.")
@brief_engine_options
def command(
    source: Path, target: Path, model: str, concurrency: int, api_key: str | None, **engine: Any
) -> None:
    """Answer every request of IN.jsonl and append the responses to OUT.jsonl.

    A line is the body of a chat completion ({"messages": [...]}), of a completion ({"prompt": "..."}), or a
    line of an OpenAI batch file ({"custom_id": ..., "url": ..., "body": {...}}). An output line has the
    request's custom_id (or its line number), and `response` or `error`. Lines that OUT.jsonl answers already
    are skipped, so a run that was stopped goes on where it was; a request that failed is tried again and gets
    another line. IN.jsonl is checked as a whole before the first request.
    """
    lines = read_lines(source)
    check_target(source, target)
    done = answered(target)
    todo = [line for line in lines if line.id not in done]
    with connected(model, api_key, engine) as client:
        name = client.first_model()
        runner = Runner(client.url, name, api_key, concurrency)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with (
            Progress(*columns, console=Console(stderr=True)) as progress,
            target.open("a", encoding="utf-8") as out,
        ):
            bar = progress.add_task("generating", total=len(lines), completed=len(lines) - len(todo))
            failed = asyncio.run(runner.run(todo, out, lambda: progress.advance(bar)))
    there = len(lines) - len(todo)
    click.echo(f"{len(todo) - failed} answered, {there} were there already, {failed} failed", err=True)
    if failed:
        raise UsageError(
            f"{failed} requests failed; their lines in {target} say why, a new run tries them again"
        )


def read_lines(path: Path) -> list[Line]:
    lines: list[Line] = []
    seen: set[str] = set()
    for number, text in enumerate(path.read_bytes().split(b"\n"), 1):  # str.splitlines cuts inside strings
        if not text.strip():
            continue
        line = read_line(text, f"{path}:{number}", str(number))
        if line.id in seen:
            raise UsageError(f"{path}:{number}: the custom_id {line.id!r} stands twice")
        seen.add(line.id)
        lines.append(line)
    return lines


def read_line(text: bytes, where: str, number: str) -> Line:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: a line must be a JSON object")
    body = value.get("body", {k: v for k, v in value.items() if k != "custom_id"})
    if not isinstance(body, dict) or not ("messages" in body or "prompt" in body):
        raise UsageError(f"{where}: neither `messages` nor `prompt`")
    body = {key: item for key, item in body.items() if key not in ("model", "stream", "stream_options")}
    endpoint = "/chat/completions" if "messages" in body else "/completions"
    return Line(str(value.get("custom_id", number)), endpoint, body)


def check_target(source: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist")
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is both IN and OUT")


def answered(path: Path) -> set[str]:
    """The ids that have a response. A last line cut by a crash is dropped from the file first."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    done = set()
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line)
            if entry.get("response"):
                done.add(entry["custom_id"])
        except (ValueError, AttributeError, KeyError):
            raise UsageError(
                f"{path}:{number} was not written by mosso generate; name another file"
            ) from None
    return done


class Runner:
    """Keeps `concurrency` requests under way; a 429 or 503 waits and tries again."""

    def __init__(self, url: str, model: str, api_key: str | None, concurrency: int) -> None:
        self.url = url
        self.model = model
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.concurrency = concurrency

    async def run(self, lines: Iterable[Line], out: TextIO, advance: Any) -> int:
        """Writes each answer as it comes, whole lines only; returns how many failed."""
        queue = iter(lines)
        failed = 0
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(
            base_url=self.url, headers=self.headers, timeout=TIMEOUT, limits=limits
        ) as http:

            async def work() -> None:
                nonlocal failed
                for line in queue:
                    result = await self.answer(http, line)
                    failed += "error" in result
                    out.write(json.dumps({"custom_id": line.id, **result}, ensure_ascii=False) + "\n")
                    out.flush()
                    advance()

            await asyncio.gather(*(work() for _ in range(self.concurrency)))
        return failed

    async def answer(self, http: httpx.AsyncClient, line: Line) -> dict[str, Any]:
        while True:
            try:
                response = await http.post(line.url, json={**line.body, "model": self.model})
            except httpx.HTTPError as error:
                return {"error": {"message": f"the connection broke: {error}"}}
            if response.status_code in (429, 503):
                await asyncio.sleep(float(response.headers.get("retry-after", RETRY_SECONDS)))
                continue
            if response.is_error:
                return {"error": _error_of(response)}
            return {"response": response.json()}


def _error_of(response: httpx.Response) -> Any:
    try:
        return response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {"message": response.text[:200], "status": response.status_code}
