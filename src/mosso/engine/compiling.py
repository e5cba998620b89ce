"""Constraints are compiled beside the loop: a large schema takes longer than a step, and steps must go on."""

from __future__ import annotations

import contextlib
import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from mosso.core.constraints import Constrainer, Turn
from mosso.core.errors import EngineError, MossoError, OverloadedError, RequestError
from mosso.core.requests import Request
from mosso.engine.messages import Compiled, EndThinking, ToEngine


@dataclass(slots=True)
class _Waiting:
    request: Request
    thought: bool = False  # its thinking was ended meanwhile


class Compiling:
    """Requests whose constraint is being compiled; each comes back to the inbox as Compiled.

    One thread compiles, in the order of arrival: choices of one request then find what the first compiled.
    Everything else here belongs to the loop's thread.
    """

    def __init__(self, constrainer: Constrainer, inbox: queue.SimpleQueue[ToEngine], most: int) -> None:
        self._constrainer = constrainer
        self._inbox = inbox
        self._most = most
        self._pending: dict[str, _Waiting] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compile")

    def submit(self, request: Request) -> None:
        """Raises RequestError for an id that is here already, OverloadedError when too many wait."""
        if request.id in self._pending:
            raise RequestError(f"a request with the id {request.id} is being served already")
        if len(self._pending) >= self._most:
            raise OverloadedError(f"{self._most} schemas are waiting to be compiled; try again later")
        self._pending[request.id] = _Waiting(request)
        self._worker.submit(self._compile, request)

    def take(self, request: Request) -> Request | None:
        """The request as it is to be served, None if it is not wanted any more. It is no longer here then."""
        waiting = self._pending.get(request.id)
        if waiting is None or waiting.request is not request:
            return None
        del self._pending[request.id]
        return replace(request, thinking_budget=0) if waiting.thought else request

    def end_thinking(self, request_id: str) -> None:
        """A request that is here will not begin to think. For another one the message comes back to the inbox
        when constraints can be had at once."""
        waiting = self._pending.get(request_id)
        if waiting is None:
            self._worker.submit(self._warm, request_id)
        else:
            waiting.thought = True

    def abort(self, request_id: str) -> bool:
        """Whether the request was here: what its compilation gives will not be wanted."""
        return self._pending.pop(request_id, None) is not None

    def _warm(self, request_id: str) -> None:
        """What cannot be had is found out once more by who needs it, and told then."""
        with contextlib.suppress(MossoError):
            self._constrainer.prepare(Turn(thinking_budget=0))
        self._inbox.put(EndThinking(request_id, prepared=True))

    def _compile(self, request: Request) -> None:
        error: MossoError | None = None
        try:
            self._constrainer.prepare(request.turn)
        except MossoError as found:
            error = found
        except Exception as found:  # whatever it is, it is this request's own trouble
            error = EngineError(f"the constraint could not be compiled ({type(found).__name__}: {found})")
        self._inbox.put(Compiled(request, error))
