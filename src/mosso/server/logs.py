"""Log lines: one JSON object each, or text. Both carry the id of the request that they belong to.

What a person wrote never gets into them unless `prompts` is on: our own lines hold none, and of exceptions,
whose messages may quote anything, only the kind and the places in the code are written.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from starlette.datastructures import Headers

from mosso.harmony.tokenizer import Tokenizer
from mosso.server.record import current_id
from mosso.server.watching import Watch

Format = Literal["text", "json"]
_ExcInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)  # as logging has it
logger = logging.getLogger("mosso.server")


class _Discreet(logging.Formatter):
    def __init__(self, template: str | None = None, *, prompts: bool) -> None:
        super().__init__(template)
        self._prompts = prompts

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        if self._prompts or ei[1] is None:
            return super().formatException(ei)
        lines: list[str] = []
        error: BaseException | None = ei[1]
        while error is not None:
            frames = "".join(traceback.format_tb(error.__traceback__))
            lines.insert(0, f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n".join(lines)


class TextFormatter(_Discreet):
    """A line for people; the request's own line has its id in it already."""

    def __init__(self, *, prompts: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", prompts=prompts)

    def format(self, record: logging.LogRecord) -> str:
        cached, record.exc_text = record.exc_text, None  # by another handler's formatter, in its own way
        try:
            return super().format(record)
        finally:
            record.exc_text = cached

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        text, request = super().formatMessage(record), current_id.get()
        return text if request is None or request in text else f"{text} request_id={request!r}"


class JsonFormatter(_Discreet):
    """time (RFC 3339), level, logger, message, request_id where there is one, then the line's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        own = getattr(record, "mosso", None)
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.msg.removesuffix(" %s") if own else record.getMessage(),  # its fields follow
        }
        if (request := current_id.get()) is not None:
            line["request_id"] = request
        if own:
            line |= own
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str, style: Format, *, prompts: bool) -> None:
    """Everything that this process logs, to stderr. `level` is a name such as info."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(prompts=prompts) if style == "json" else TextFormatter(prompts=prompts)
    )
    wanted: int = logging.getLevelNamesMapping()[level.upper()]
    others = wanted if prompts else max(logging.INFO, wanted)  # their debug lines may hold anything
    logging.basicConfig(level=others, handlers=[handler], force=True)
    logging.getLogger("mosso").setLevel(wanted)


class TextLog:
    """Implements server.watching.Watcher: what was asked and answered, for those who want it logged."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def begun(self, watch: Watch, headers: Headers) -> None: ...

    def ended(self, watch: Watch) -> None:
        for generation in watch.generations[watch.notes.get(self, 0) :]:
            fields = {
                "sequence": generation.request.id,
                "prompt": self._tokenizer.decode(generation.request.prompt),
                "answer": self._tokenizer.decode(generation.tokens),
            }
            logger.info("text %s", " ".join(f"{k}={v!r}" for k, v in fields.items()), extra={"mosso": fields})
        watch.notes[self] = len(watch.generations)
