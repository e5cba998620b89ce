"""A request in a file, so that somebody else can run it again: a capsule.

It holds what the engine was given and what it gave: token ids, sampling with the seed that was used, versions
and settings. Whoever has the model's vocabulary can read the ids, and schemas are there as the client wrote
them, so it is for those who may see the request. Text is added only if that is asked for; keys never are.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import Headers

from mosso.core.errors import UsageError
from mosso.core.requests import Request, TokenLogprob
from mosso.harmony.tokenizer import Tokenizer
from mosso.server.watching import Generation, Watch

HEADER = "x-mosso-capsule"
"""Asks for a capsule of this request: any value but 0 or false."""
MOST = 1000  # files in a folder; the oldest are deleted
Which = Literal["asked", "failed", "all"]
logger = logging.getLogger("mosso.server")


class Text(BaseModel):
    prompt: str
    answer: str


class CapsuleSequence(BaseModel):
    """What the engine was asked, and what came back. `finish` is None where the client left before it."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    request: Request
    tokens: list[int]
    logprobs: list[TokenLogprob] = []
    cached_tokens: int = 0
    queued_seconds: float = 0.0
    thinking_ended: int | None = None
    finish: str | None = None
    error: str | None = None
    text: Text | None = None


class Capsule(BaseModel):
    """`about`: the model, versions, and the engine's settings, as names and values for people."""

    format: Literal[1] = 1
    created: datetime
    about: dict[str, Any]
    served: dict[str, Any]  # as in the log line: the path, the status, the seconds, the tokens
    sequences: list[CapsuleSequence]


def read_capsule(path: Path) -> Capsule:
    """Raises UsageError for a file that is none."""
    try:
        return Capsule.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path} is no capsule: {where}: {first['msg']}") from None


@dataclass(frozen=True, slots=True)
class Capsules:
    """Implements server.watching.Watcher: writes capsules into `folder`, named after time and request id.

    `which`: those that are asked for by header; also those that failed on our side; or all. With a
    `tokenizer` they hold the text.
    """

    folder: Path
    which: Which
    about: dict[str, Any]
    tokenizer: Tokenizer | None = None

    def begun(self, watch: Watch, headers: Headers) -> None:
        watch.notes[self.folder] = headers.get(HEADER, "0").lower() not in ("0", "false")

    def ended(self, watch: Watch) -> None:
        """Written again when work in the background has added to it."""
        asked: bool = watch.notes[self.folder]
        if watch.generations and (
            asked or self.which == "all" or (self.which == "failed" and _failed(watch))
        ):
            try:
                self._write(watch)
            except OSError as error:
                logger.warning("a capsule could not be written: %s", error.strerror)

    def _write(self, watch: Watch) -> None:
        begun = datetime.fromtimestamp(watch.begun_ns / 1e9, UTC)
        capsule = Capsule(
            created=begun,
            about=self.about,
            served=watch.record.fields(),
            sequences=[self._sequence(generation) for generation in watch.generations],
        )
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", watch.record.id)
        path = self.folder / f"{begun:%Y%m%dT%H%M%S.%f}-{safe}.json"
        part = path.with_suffix(".part")  # moved when it is whole, so that nobody reads half of one
        try:
            with open(part, "w", opener=_private, encoding="utf-8") as file:
                file.write(capsule.model_dump_json())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        for old in sorted(self.folder.glob("*.json"))[:-MOST]:
            old.unlink(missing_ok=True)
        logger.info("capsule %s", path.name)

    def _sequence(self, generation: Generation) -> CapsuleSequence:
        decode = self.tokenizer.decode if self.tokenizer is not None else None
        return CapsuleSequence(
            request=replace(generation.request, cache_salt="", tenant=""),
            tokens=generation.tokens,
            logprobs=generation.logprobs,
            cached_tokens=generation.cached_tokens,
            queued_seconds=generation.queued_seconds,
            thinking_ended=generation.thinking_ended,
            finish=generation.finish,
            error=generation.error,
            text=Text(prompt=decode(generation.request.prompt), answer=decode(generation.tokens))
            if decode is not None
            else None,
        )


def _failed(watch: Watch) -> bool:
    return (
        watch.record.status >= 500
        or "error" in watch.reasons
        or any(generation.error is not None for generation in watch.generations)
    )


def _private(path: str, flags: int) -> int:
    """Readable to its owner only."""
    return os.open(path, flags, 0o600)
