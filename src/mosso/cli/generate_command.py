"""`mosso generate`: a file of requests, answered as fast as the engine can, resumed where it stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mosso.api.batch_lines import LineError, failure_line, read_object, result_line
from mosso.api.seats import Seat, Seats, work_through
from mosso.cli.chat_command import connected
from mosso.cli.engine_options import brief_engine_options
from mosso.core.counting import counted
from mosso.core.errors import UsageError

RETRY_SECONDS = 1.0
LONGEST_PAUSE = 3600.0
TIMEOUT = httpx.Timeout(None, connect=30.0)  # an answer may take as long as it takes


ENDPOINTS = {"messages": "/v1/chat/completions", "prompt": "/v1/completions", "input": "/v1/responses"}
"""Which endpoint takes a body, by the field that it must have."""
OURS = ("model", "stream", "stream_options", "background")  # fields of a body that are not the line's to say


@dataclass(frozen=True, slots=True)
class Line:
    """One request: its identity in the output, where it goes, what it says. `batch`: it stood in a line of an
    OpenAI batch file, and its result will."""

    id: str
    url: str
    body: dict[str, Any]
    batch: bool


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

    A line is the body of a chat completion ({"messages": [...]}), of a completion ({"prompt": "..."}) or of a
    response ({"input": ...}), and its output line has the request's custom_id (or its line number), and
    `response` or `error`. Or it is a line of an OpenAI batch file ({"custom_id": ..., "method": "POST",
    "url": ..., "body": {...}}), and its output line is one of a batch's output file.

    Lines that OUT.jsonl answers already are skipped, so a run that was stopped goes on where it was; a
    request that failed is tried again and gets another line. IN.jsonl is checked as a whole before the first
    request.
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
            _opened(target) as out,
        ):
            bar = progress.add_task("generating", total=len(lines), completed=len(lines) - len(todo))
            try:
                failed = asyncio.run(runner.run(todo, out, lambda: progress.advance(bar)))
            except ExceptionGroup as group:  # the first fault ended the others
                fault = group.exceptions[0]
                if isinstance(fault, OSError):
                    raise UsageError(f"cannot write {target}: {fault}") from None
                raise fault from None
    there = len(lines) - len(todo)
    click.echo(f"{len(todo) - failed} answered, {there} were there already, {failed} failed", err=True)
    if failed:
        raise UsageError(f"{counted(failed, 'request')} failed: {target} says why, and a new run tries again")


def read_lines(path: Path) -> list[Line]:
    lines: list[Line] = []
    seen: set[str] = set()
    with path.open("rb") as file:  # its lines end in line feeds only
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                line = read_line(text, str(number))
            except LineError as error:
                raise UsageError(f"{path}:{number}: {error}") from None
            if line.id in seen:
                raise UsageError(f"{path}:{number}: the custom_id {line.id!r} stands twice")
            seen.add(line.id)
            lines.append(line)
    return lines


def read_line(text: bytes, number: str) -> Line:
    """More is taken than a batch takes: a body by itself, a line without a custom_id, a method or a url."""
    value = read_object(text)
    batch = "body" in value
    body = value["body"] if batch else {k: v for k, v in value.items() if k != "custom_id"}
    fields = [name for name in ENDPOINTS if isinstance(body, dict) and name in body]
    if not fields:
        raise LineError("invalid_value", "neither `messages` nor `prompt` nor `input`")
    url = (value.get("url") if batch else None) or ENDPOINTS[fields[0]]
    if url not in ENDPOINTS.values():
        raise LineError(
            "invalid_url", f"the url {str(url)[:80]!r} is none of {', '.join(ENDPOINTS.values())}"
        )
    kept = {key: item for key, item in body.items() if key not in OURS}
    return Line(str(value.get("custom_id", number)), url, kept, batch)


def check_target(source: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist")
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is both IN and OUT")


def _opened(target: Path) -> FileIO:
    try:
        return target.open("ab", buffering=0)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from None


def answered(path: Path) -> set[str]:
    """The ids that have a response. A last line cut by a crash is dropped from the file first."""
    if not path.is_file():  # a device has nothing to tell, or never ends
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    done = set()
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line)
            response = entry.get("response")
            if response and response.get("status_code", 200) < 400:
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

    async def run(self, lines: Sequence[Line], out: BinaryIO, advance: Callable[[], None]) -> int:
        """Writes each answer as it comes, whole lines only; returns how many failed."""
        failed = 0
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(
            base_url=self.url, headers=self.headers, timeout=TIMEOUT, limits=limits
        ) as http:

            async def work(line: Line, seat: Seat) -> None:
                nonlocal failed
                result, is_answer = await self.answer(http, line)
                failed += not is_answer
                _append(out, result)
                advance()

            await work_through(_each(lines), work, Seats(self.concurrency), ("", ""))
        return failed

    async def answer(self, http: httpx.AsyncClient, line: Line) -> tuple[bytes, bool]:
        """The output line, and whether it holds an answer."""
        path = line.url.removeprefix("/v1")  # the base URL ends in it
        while True:
            try:
                response = await http.post(path, json={**line.body, "model": self.model})
            except httpx.HTTPError as error:
                message = f"the connection broke: {error}"
                if line.batch:
                    return failure_line(line.id, "connection_error", message), False
                return _plain(line, error={"message": message}), False
            refused_for_now = response.status_code in (429, 503)
            if refused_for_now and response.headers.get("x-should-retry") != "false":
                await asyncio.sleep(_pause(response))
                continue
            if line.batch:
                # What is JSON stands as it is where it is one line.
                whole = _is_json(response) and b"\n" not in response.content
                body = response.content if whole else json.dumps(_found(response)).encode()
                answered = result_line(line.id, status=response.status_code, body=body)
                return answered, response.is_success and _is_json(response)
            if not response.is_success or not _is_json(response):
                return _plain(line, error=_fault(response)["error"]), False
            return _plain(line, response=response.json()), True


async def _each(lines: Sequence[Line]) -> AsyncIterator[Line]:
    for line in lines:
        yield line


def _append(out: BinaryIO, line: bytes) -> None:
    """The whole line is the file's when this returns: a buffer would keep what a full disk refuses."""
    rest = memoryview(line)
    while rest:
        rest = rest[out.write(rest) :]


def _plain(line: Line, **result: Any) -> bytes:
    return json.dumps({"custom_id": line.id, **result}, ensure_ascii=False).encode(errors="replace") + b"\n"


def _is_json(response: httpx.Response) -> bool:
    try:
        response.json()
    except ValueError:
        return False
    return True


def _pause(response: httpx.Response) -> float:
    """Seconds to wait as the server says; it may also say a date, or nonsense."""
    try:
        seconds = float(response.headers.get("retry-after", RETRY_SECONDS))
    except ValueError:
        return RETRY_SECONDS
    return seconds if 0 <= seconds <= LONGEST_PAUSE else RETRY_SECONDS


def _found(response: httpx.Response) -> Any:
    return response.json() if _is_json(response) else _fault(response)


def _fault(response: httpx.Response) -> dict[str, Any]:
    """The body of an answer that is an error, whatever was sent."""
    try:
        found = response.json()
        if isinstance(found, dict) and "error" in found:
            return found
    except ValueError:
        pass
    return {"error": {"message": response.text[:200], "status": response.status_code}}
