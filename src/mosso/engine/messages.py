"""What client and engine process say to each other. Each message names its direction by its group.

On the wire a message is its pickle after the pickle's length (4 bytes, big endian). Both ends are our own
processes on one socket pair, so pickle meets no stranger's bytes.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from mosso.core.errors import MossoError
from mosso.core.requests import EngineLimits, EngineStats, Request, TokenEvent
from mosso.engine.pulse import Phase
from mosso.engine.settings import EngineSettings

HEADER = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Load:
    """Client → engine, the first message: load this model."""

    settings: EngineSettings


@dataclass(frozen=True, slots=True)
class Submit:
    """Client → engine: continue this sequence."""

    request: Request


@dataclass(frozen=True, slots=True)
class Abort:
    """Client → engine: end this request; an unknown id is ignored."""

    request_id: str


@dataclass(frozen=True, slots=True)
class EndThinking:
    """Client → engine: this request has thought enough; an unknown id is ignored.

    `prepared`: engine → itself, once constraints can be had at once.
    """

    request_id: str
    prepared: bool = False


@dataclass(frozen=True, slots=True)
class Compiled:
    """Engine → itself: the constraint of this request is ready, or `error` says why it cannot be had."""

    request: Request
    error: MossoError | None = None


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Client → engine: stop now, whatever runs. The end of the connection says the same."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Engine → client, while loading: `done` of `total` (units of the stage, 0 when unknown)."""

    stage: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Ready:
    """Engine → client: loaded. `notes` are sentences about choices made for the user, `settings` those that
    it runs with."""

    limits: EngineLimits
    notes: tuple[str, ...] = ()
    settings: EngineSettings | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """Engine → client, twice a second once it is ready: what it does, and the seconds since it last moved."""

    phase: Phase
    still: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Engine → client: it cannot start, or cannot go on; the process ends after this message."""

    error: MossoError


@dataclass(frozen=True, slots=True)
class Rejected:
    """Engine → client: this request was not taken; it has no events."""

    request_id: str
    error: MossoError


@dataclass(frozen=True, slots=True)
class Batch:
    """Engine → client: what one turn of the loop gave all requests, and the state after it.

    It travels as plain tuples: dataclasses are pickled by Python code, which costs a step of 512 rows a
    millisecond at either end.
    """

    events: tuple[TokenEvent, ...]
    stats: EngineStats

    def __reduce__(self) -> tuple[object, ...]:
        return _batch, (tuple(map(_EVENT_FIELDS, self.events)), self.stats)


_EVENT_FIELDS = attrgetter(*TokenEvent.__slots__)


def _batch(events: tuple[tuple[Any, ...], ...], stats: EngineStats) -> Batch:
    return Batch(tuple(TokenEvent(*fields) for fields in events), stats)


ToEngine = Load | Submit | Abort | EndThinking | Compiled | Shutdown
FromEngine = Progress | Ready | Beat | Failed | Rejected | Batch
Emit = Callable[[FromEngine], None]


def encode(message: ToEngine | FromEngine) -> bytes:
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> ToEngine | FromEngine:
    message: ToEngine | FromEngine = pickle.loads(body)  # noqa: S301 - see the module's docstring
    return message
