"""What is known about one request for its log line, filled in as it is served. Never holds prompt text."""

from __future__ import annotations

import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import Scope

from mosso.api.usage import Usage

KEY = "mosso.record"
current_id: ContextVar[str | None] = ContextVar("request id", default=None)
"""Of the request that this task, or the one that started it, works for; log lines carry it."""
_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class RequestRecord:
    """`job` is the id of the answer (chatcmpl-...), which also names the engine's requests."""

    id: str
    method: str
    path: str
    started: float = field(default_factory=time.monotonic)
    status: int = 0
    caller: str | None = None  # the name of the key's owner
    job: str | None = None
    usage: Usage | None = None
    error: str | None = None
    gone: bool = False  # the client hung up before its answer was complete

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def fields(self) -> dict[str, object]:
        """For the log, only what is known."""
        tokens = {}
        if self.usage is not None:
            tokens = {
                "prompt_tokens": self.usage.prompt_tokens,
                "cached_tokens": self.usage.prompt_tokens_details.cached_tokens,
                "completion_tokens": self.usage.completion_tokens,
            }
        known = {
            "request_id": self.id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(self.seconds, 4),
            "caller": self.caller,
            "job": self.job,
            **tokens,
            "error": self.error,
            "gone": self.gone or None,
        }
        return {name: value for name, value in known.items() if value is not None}


def record_of(scope: Scope) -> RequestRecord:
    record = scope[KEY]
    assert isinstance(record, RequestRecord)
    return record


def request_id(given: str | None) -> str:
    """The client's id if it is printable and short, else a new one."""
    return given if given is not None and _SAFE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
