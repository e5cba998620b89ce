"""Constraints are compiled beside the loop: a large schema takes longer than a step, and steps must go on."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor

from mosso.core.constraints import Constrainer
from mosso.core.errors import EngineError, MossoError, OverloadedError, RequestError
from mosso.core.requests import Request
from mosso.engine.messages import Compiled, ToEngine


class Compiling:
    """Requests whose constraint is being compiled; each comes back to the inbox as Compiled.

    One thread compiles, in the order of arrival: choices of one request then find what the first compiled.
    Everything else here belongs to the loop's thread.
    """

    def __init__(self, constrainer: Constrainer, inbox: queue.SimpleQueue[ToEngine], most: int) -> None:
        self._constrainer = constrainer
        self._inbox = inbox
        self._most = most
        self._pending: dict[str, Request] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compile")

    def submit(self, request: Request) -> None:
        """Raises RequestError for an id that is here already, OverloadedError when too many wait."""
        if request.id in self._pending:
            raise RequestError(f"a request with the id {request.id} is being served already")
        if len(self._pending) >= self._most:
            raise OverloadedError(f"{self._most} schemas are waiting to be compiled; try again later")
        self._pending[request.id] = request
        self._worker.submit(self._compile, request)

    def take(self, request: Request) -> bool:
        """Whether the request is still wanted; it is no longer here then."""
        if self._pending.get(request.id) is not request:
            return False
        del self._pending[request.id]
        return True

    def abort(self, request_id: str) -> bool:
        """Whether the request was here: what its compilation gives will not be wanted."""
        return self._pending.pop(request_id, None) is not None

    def _compile(self, request: Request) -> None:
        assert request.constraint is not None
        error: MossoError | None = None
        try:
            self._constrainer.prepare(request.constraint)
        except MossoError as found:
            error = found
        except Exception as found:  # whatever it is, it is this request's own trouble
            error = EngineError(f"the constraint could not be compiled ({type(found).__name__}: {found})")
        self._inbox.put(Compiled(request, error))
