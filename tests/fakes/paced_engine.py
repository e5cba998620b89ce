"""An engine's process without an engine: steps take the time that it is told, tokens are random.

    paced_engine.py FD STEP PREFILL VOCAB

FD is its end of the client's socket pair. A step in which rows decode takes STEP seconds, and as much longer
as its prompts take at PREFILL tokens a second. So a server can be measured behind a GPU that is not there.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from dataclasses import dataclass

from mosso.core.requests import EngineLimits, EngineStats, FinishReason, TokenEvent
from mosso.engine.messages import HEADER, Abort, Batch, FromEngine, Ready, Shutdown, Submit, decode, encode

BUDGET = 8192  # prompt tokens of a step


@dataclass(slots=True)
class Row:
    id: str
    prompt: int  # tokens that are still to be read
    left: int  # and to be generated


class PacedEngine:
    def __init__(self, sock: socket.socket, step: float, prefill: float, vocab: int) -> None:
        self._sock = sock
        self._step = step
        self._prefill = prefill
        self._ids = random.Random(0).choices(range(vocab), k=4099)
        self._rows: dict[str, Row] = {}  # in the order of their arrival
        self._count = 0

    def run(self, limits: EngineLimits) -> None:
        """Until the client says that it is enough, or is gone."""
        self._tell(Ready(limits, settings=self._hear().settings))
        end = time.perf_counter()
        while self._take_in(wait=not self._rows):
            decoding = [row for row in self._rows.values() if not row.prompt]
            read = self._read_prompts()
            end = max(end, time.perf_counter()) + (self._step if decoding else 0.0) + read / self._prefill
            while (rest := end - time.perf_counter()) > 0:
                time.sleep(rest)
            self._give(decoding)

    def _take_in(self, *, wait: bool) -> bool:
        while wait or select.select([self._sock], [], [], 0)[0]:
            wait = False
            match self._hear():
                case Submit(request):
                    sampling = request.sampling
                    self._rows[request.id] = Row(request.id, len(request.prompt), sampling.max_tokens)
                case Abort(request_id) if request_id in self._rows:
                    del self._rows[request_id]
                    self._tell_events([TokenEvent(request_id, finish=FinishReason.ABORT)])
                case Shutdown() | None:
                    return False
        return True

    def _read_prompts(self) -> int:
        """Tokens of prompts, those that came first first."""
        room = BUDGET
        for row in self._rows.values():
            part = min(row.prompt, room)
            row.prompt -= part
            room -= part
        return BUDGET - room

    def _give(self, rows: list[Row]) -> None:
        events = []
        for row in rows:
            row.left -= 1
            self._count += 1
            token = self._ids[self._count % len(self._ids)]
            events.append(TokenEvent(row.id, (token,), finish=None if row.left else FinishReason.LENGTH))
            if not row.left:
                del self._rows[row.id]
        self._tell_events(events)

    def _tell_events(self, events: list[TokenEvent]) -> None:
        self._tell(Batch(tuple(events), EngineStats(running=len(self._rows))))

    def _tell(self, message: FromEngine) -> None:
        self._sock.sendall(encode(message))

    def _hear(self):
        head = self._sock.recv(HEADER.size, socket.MSG_WAITALL)
        return decode(self._sock.recv(*HEADER.unpack(head), socket.MSG_WAITALL)) if head else None


if __name__ == "__main__":
    fd, step, prefill, vocab = sys.argv[1:]
    engine = PacedEngine(socket.socket(fileno=int(fd)), float(step), float(prefill), int(vocab))
    engine.run(EngineLimits(131_072, 10_000_000, 4096, int(vocab)))
