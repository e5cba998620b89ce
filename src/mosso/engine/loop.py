"""The overlap loop: plan step N+1 while step N runs, then tell the world what N gave.

One turn: take in messages, plan and launch a step, wait for the step before it, emit one batch. The runner
thus always has its next step waiting when it ends one, and everything the host does hides behind a step.
Idle, the loop sleeps in the inbox.

Invariant: at most one launched step has not been given to `scheduler.update` when `scheduler.plan` is called.
"""

from __future__ import annotations

import contextlib
import queue
import traceback
from collections.abc import Callable

from mosso.core.constraints import Constrainer
from mosso.core.errors import EngineError, MossoError, RequestError, UnsupportedError
from mosso.core.requests import EngineLimits, FinishReason, Request, TokenEvent
from mosso.core.seeding import with_seed
from mosso.engine.compiling import Compiling
from mosso.engine.messages import Abort, Batch, Compiled, EndThinking, FromEngine, Rejected, Submit, ToEngine
from mosso.engine.pulse import Phase, Pulse
from mosso.engine.runner import Pending, Runner
from mosso.scheduler.scheduler import Scheduler

MAX_FAILURES = 3  # steps that fail in a row before the engine gives up


class EngineLoop:
    """Single-threaded: everything here happens in the thread that calls `run`."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        inbox: queue.SimpleQueue[ToEngine],
        emit: Callable[[FromEngine], None],
        limits: EngineLimits,
        *,
        constrainer: Constrainer | None = None,
        pulse: Pulse | None = None,
        check: bool = False,
    ) -> None:
        """Without a `constrainer` a request with a constraint is refused: the sampler has no masks."""
        self._pulse = pulse or Pulse()
        self._scheduler = scheduler
        self._runner = runner
        self._inbox = inbox
        self._emit = emit
        self._limits = limits
        most = scheduler.config.max_waiting
        self._compiling = None if constrainer is None else Compiling(constrainer, inbox, most)
        self._check = check
        self._pending: Pending | None = None
        self.idle = True
        """The last turn found nothing to launch or to wait for: the next one blocks for a message."""
        self._failures = 0

    def run(self) -> None:
        """Turn for ever; the client's leaving ends the process. Raises EngineError when it cannot go on."""
        while True:
            self.turn()

    def turn(self) -> None:
        """One turn; blocks in the inbox when there is nothing to do."""
        self._pulse.enter(Phase.IDLE if self.idle else Phase.STEP)
        events = self._take_in(block=self.idle)
        self._pulse.enter(Phase.STEP)
        try:
            events += self._advance()
        except MossoError:
            raise
        except Exception as error:
            events += self._recover(error)
        if self._check:
            self._scheduler.check()
        self._emit(Batch(tuple(events), self._scheduler.stats()))

    def _advance(self) -> list[TokenEvent]:
        """Launch the next step, then finish the one before it."""
        before = self._pending
        plan = self._scheduler.plan()
        self._pending = self._runner.launch(plan) if plan is not None else None
        self.idle = before is None and self._pending is None
        if before is None:
            return []
        events = self._scheduler.update(before.wait())
        self._failures = 0
        return events

    def _take_in(self, *, block: bool) -> list[TokenEvent]:
        """Handle every message that is here; with `block`, wait for the first."""
        events: list[TokenEvent] = []
        while True:
            try:
                message = self._inbox.get(block)
            except queue.Empty:
                return events
            block = False
            match message:
                case Submit(request):
                    self._submit(request)
                case Compiled(request, error):
                    self._compiled(request, error)
                case Abort(request_id):
                    events += self._abort(request_id)
                case EndThinking(request_id, prepared):
                    self._end_thinking(request_id, prepared=prepared)
                case _:
                    raise EngineError(f"unexpected message {type(message).__name__}")

    def _submit(self, request: Request) -> None:
        try:
            check_request(request, self._limits)
            if request.turn.is_free:
                self._scheduler.add(with_seed(request))
            elif self._compiling is None:
                raise UnsupportedError(
                    "structured output and thinking budgets are not supported: this engine has no masks"
                )
            else:
                self._compiling.submit(request)
        except MossoError as error:
            self._emit(Rejected(request.id, error))

    def _compiled(self, request: Request, error: MossoError | None) -> None:
        """Its constraint is ready: from here on it is a request like any other."""
        assert self._compiling is not None
        wanted = self._compiling.take(request)
        if wanted is None:
            return  # aborted meanwhile
        try:
            if error is not None:
                raise error
            self._scheduler.add(with_seed(wanted))
        except MossoError as why:
            self._emit(Rejected(request.id, why))

    def _end_thinking(self, request_id: str, *, prepared: bool) -> None:
        if prepared:
            self._scheduler.end_thinking(request_id)
        elif self._compiling is not None:
            self._compiling.end_thinking(request_id)

    def _abort(self, request_id: str) -> list[TokenEvent]:
        if self._compiling is not None and self._compiling.abort(request_id):
            return [TokenEvent(request_id, finish=FinishReason.ABORT)]
        return self._scheduler.abort(request_id)

    def _recover(self, error: Exception) -> list[TokenEvent]:
        """A step failed. What ran ends with an error, what waits goes on; pages and rows start afresh.

        The step launched after the failed one built on it, so its result is dropped too.
        """
        traceback.print_exception(error)
        reason = f"{type(error).__name__}: {error}"
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise EngineError(f"{self._failures} steps in a row failed, the last with {reason}") from error
        if self._pending is not None:
            with contextlib.suppress(Exception):
                self._pending.wait()
            self._pending = None
        self._runner.reset()
        self.idle = False
        return self._scheduler.fail(f"the engine failed in a step ({reason})")


def check_request(request: Request, limits: EngineLimits) -> None:
    """Refuse numbers that the model lacks or no tensor holds: there they would hurt the whole batch."""
    sampling = request.sampling
    ids = (*request.prompt, *sampling.stop_ids, *(token for token, _ in sampling.logit_bias))
    if ids and not (min(ids) >= 0 and max(ids) < limits.vocab_size):
        raise RequestError(f"a token id is outside the model's vocabulary of {limits.vocab_size} ids")
    for name, value in (("top_k", sampling.top_k), ("seed", sampling.seed or 0)):
        if not -(2**63) <= value < 2**63:
            raise RequestError(f"{name} does not fit 64 bits", param=name)
