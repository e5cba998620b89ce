"""/v1/batches: files of requests, answered when there is room, each exactly once.

What is true of a batch is what the store has: its state, and one result a request. Whatever ends the process,
the next one reads that and goes on: requests without a result are asked (again), those with one never are.

    validating → in_progress → finalizing → completed
        ↓ failed       ↓ expired, or cancelling → cancelled: the rest gets results that say so
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Literal

from pydantic_core import to_json

from mosso.api.batch_lines import (
    LineChecker,
    LineProblem,
    LineSplitter,
    failure_line,
    read_line,
    result_line,
)
from mosso.api.batches_schema import (
    Batch,
    BatchErrors,
    BatchList,
    BatchRequest,
    BatchStatus,
    BatchUsage,
    RequestCounts,
)
from mosso.api.batches_store import BatchStore, Kind, StoredBatch, StoredFile, StoredResult
from mosso.api.caller import Caller
from mosso.api.endpoints import Endpoints
from mosso.api.errors import error_json, status_of
from mosso.api.responses_schema import InputTokensDetails, OutputTokensDetails
from mosso.api.responses_store import StoreError
from mosso.api.seats import Seat, Seats, work_through
from mosso.api.settings import ApiSettings
from mosso.api.usage import TokenCounts
from mosso.core.errors import (
    EngineError,
    MossoError,
    NotFoundError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from mosso.core.requests import BACKGROUND
from mosso.core.source import TokenSource

logger = logging.getLogger("mosso.api")
MOST_AT_ONCE = 256  # requests under way, where nothing was set and the engine would run more
_GIVEN_UP: dict[str, tuple[str, str]] = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This batch was cancelled before this request was executed."),
}
_BULK = 500  # results of requests that were given up, in one transaction
Numbered = tuple[int, bytes | None]


@dataclass(slots=True, eq=False)
class _Run:
    """A batch that is not over, or whose end could not be stored."""

    stored: StoredBatch
    batch: Batch
    done: set[int] = field(default_factory=set)  # lines that have a result
    work: asyncio.Future[None] | None = None  # what asks the engine, while it does
    outputs: list[StoredFile] = field(default_factory=list)  # to be stored with its end
    unsaved: bool = False

    @property
    def cancelling(self) -> bool:
        return self.batch.status == "cancelling"

    def record(self) -> StoredBatch:
        """The batch as of now, to be stored."""
        stored, body = self.stored, self.batch.model_dump_json().encode()
        return StoredBatch(
            id=stored.id,
            scope=stored.scope,
            body=body,
            active=not self.batch.is_over,
            input_file=stored.input_file,
            priority=stored.priority,
            keep_outputs=stored.keep_outputs,
        )

    def count(self, kind: Kind, used: TokenCounts) -> None:
        counts = self.batch.request_counts
        completed = counts.completed + (kind == "output")
        failed = counts.failed + (kind == "error")
        self.told(completed, failed, _sum(_counts(self.batch.usage), used))

    def told(self, completed: int, failed: int, used: TokenCounts) -> None:
        total = self.batch.request_counts.total
        self.batch.request_counts = RequestCounts(total=total, completed=completed, failed=failed)
        self.batch.usage = _usage(used)


class BatchService:
    """Everything /v1/batches does, short of HTTP. `scope` says whose batches: none finds another's.

    The store stays the caller's. Batches run in tasks on the loop of `create` and `resume`, until `close`.
    """

    def __init__(
        self, store: BatchStore, endpoints: Endpoints, source: TokenSource, settings: ApiSettings
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._source = source
        self._settings = settings
        self._limits = settings.batches
        self._seats: Seats | None = None
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def create(self, body: BatchRequest, caller: Caller) -> Batch:
        """The batch, which is stored when this returns and goes on by itself."""
        file = await self._store.file(caller.scope, body.input_file_id)
        if file is None:
            raise NotFoundError(
                f"No such File object: {body.input_file_id[:80]}",
                param="input_file_id",
                code="file_not_found",
            )
        if file.purpose != "batch":
            raise RequestError(
                f"Invalid value for 'input_file_id': the file's purpose is {file.purpose!r}, not 'batch'.",
                param="input_file_id",
                code="invalid_value",
            )
        active = sum(
            run.stored.scope == caller.scope and not run.batch.is_over for run in self._runs.values()
        )
        if active >= self._limits.max_active:
            raise OverloadedError(f"There are {active} batches that are not over.", retry_after=60)
        now = self._settings.now()
        batch = Batch(
            id=f"batch_{uuid.uuid4().hex}",
            endpoint=body.endpoint,
            input_file_id=file.id,
            completion_window=body.completion_window,
            created_at=now,
            expires_at=now + body.window_seconds,
            metadata=body.metadata,
        )
        keep = None if body.output_expires_after is None else body.output_expires_after.seconds
        run = _Run(StoredBatch(batch.id, caller.scope, b"", True, file.id, caller.priority, keep), batch)
        await self._store.put(run.record())
        self._start(run)
        return batch

    async def retrieve(self, scope: str, batch_id: str, param: str = "batch_id") -> Batch:
        """NotFoundError if there is none; `param` names where the id came from."""
        run = self._runs.get(batch_id)
        if run is not None and run.stored.scope == scope:
            if run.unsaved:
                await self._settle(run)
            return run.batch
        stored = await self._store.batch(scope, batch_id)
        if stored is None:
            raise NotFoundError(
                f"No batch found with id {batch_id[:80]!r}.", param=param, code="batch_not_found"
            )
        return Batch.model_validate_json(stored.body)

    async def page(self, scope: str, *, after: str | None, limit: int) -> BatchList:
        """Newest first."""
        if after is not None:
            await self.retrieve(scope, after, "after")
        found = await self._store.batches(scope, after=after, limit=limit + 1)
        data = [self._as_of_now(stored) for stored in found[:limit]]
        ends = (data[0].id, data[-1].id) if data else (None, None)
        return BatchList(data=data, first_id=ends[0], last_id=ends[1], has_more=len(found) > limit)

    def _as_of_now(self, stored: StoredBatch) -> Batch:
        run = self._runs.get(stored.id)
        return Batch.model_validate_json(stored.body) if run is None else run.batch

    async def cancel(self, scope: str, batch_id: str) -> Batch:
        """What is being answered is aborted; what was answered is kept. RequestError for one that is over."""
        batch = await self.retrieve(scope, batch_id)
        run = self._runs.get(batch_id)
        if run is None or batch.status not in ("validating", "in_progress", "cancelling"):
            raise RequestError(
                f"Batch {batch_id!r} cannot be cancelled: its status is {batch.status!r}.",
                param="batch_id",
                code="batch_not_cancellable",
            )
        if not run.cancelling:
            batch.status, batch.cancelling_at = "cancelling", self._settings.now()
            if run.work is not None:
                run.work.cancel()
            await self._store.put(run.record())
        return batch

    async def resume(self) -> None:
        """Go on with what an earlier process began. Call it once, before serving."""
        for stored in await self._store.active():
            self._start(_Run(stored, Batch.model_validate_json(stored.body)))

    async def close(self) -> None:
        """Leave off where each batch is; the next process goes on from there."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # One batch

    def _start(self, run: _Run) -> None:
        self._runs[run.stored.id] = run
        # an empty context: whoever asked for the batch is not who waits for its answers
        task = asyncio.get_running_loop().create_task(self._work(run), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, run: _Run) -> None:
        try:
            await self._advance(run)
        except StoreError as error:
            message = f"Results could not be stored: {error.message}"
            logger.error("batch %s has failed: %s", run.stored.id, message)
            await self._fail(run, [LineProblem(code="storage_failed", message=message)])
        except Exception as error:
            logger.error("batch %s has failed", run.stored.id, exc_info=error)
            message = "The server failed while it worked on the batch."
            await self._fail(run, [LineProblem(code="server_error", message=message)])
        if not run.unsaved:
            del self._runs[run.stored.id]

    async def _advance(self, run: _Run) -> None:
        """From where the batch is to its end."""
        batch = run.batch
        if batch.status == "validating":
            if problems := await self._problems(run):
                await self._fail(run, problems)
                return
            if not run.cancelling:
                self._enter(run, "in_progress")
                await self._save(run)
        await self._recount(run)
        if batch.status == "in_progress":
            await self._answer_all(run)
            await self._recount(run)
        await self._end(run)

    async def _end(self, run: _Run) -> None:
        """Nothing more is asked of the engine."""
        total = run.batch.request_counts.total
        if run.cancelling:
            await self._give_up(run, "cancelled")
        elif len(run.done) < total:
            await self._give_up(run, "expired")
        else:
            self._enter(run, "finalizing")
            await self._save(run)
            await self._over(run, "completed")

    async def _give_up(self, run: _Run, status: Literal["expired", "cancelled"]) -> None:
        """Every request without a result gets one that says why."""
        code, message = _GIVEN_UP[status]
        bulk: list[StoredResult] = []
        if run.batch.request_counts.total:  # else it never got so far
            async for number, text in self._open_lines(run):
                line = failure_line(_custom_id(text), code, message)
                bulk.append(StoredResult(number, "error", line, TokenCounts()))
                if len(bulk) == _BULK:
                    await self._record(run, bulk)
                    bulk = []
            await self._record(run, bulk)
            await self._recount(run)
        await self._over(run, status)

    async def _problems(self, run: _Run) -> list[LineProblem]:
        """What keeps the input file from being a batch. Counts its requests; stops when it is cancelled."""
        limits = self._limits
        checker = LineChecker(
            run.batch.endpoint,
            self._settings.model_names,
            most=limits.max_requests,
            longest=limits.max_line_bytes,
        )

        def see(lines: Iterable[Numbered]) -> None:
            for number, text in lines:
                if checker.is_full:
                    return
                checker.see(number, text)

        splitter = LineSplitter(limits.max_line_bytes)
        async for piece in self._input(run):
            await asyncio.to_thread(see, splitter.feed(piece))
            if checker.is_full or run.cancelling:
                break
        see(splitter.close())
        if run.cancelling:
            return []
        checker.finish()
        run.batch.model = checker.model
        run.batch.request_counts = RequestCounts(total=0 if checker.problems else checker.total)
        return checker.problems

    async def _input(self, run: _Run) -> AsyncIterator[bytes]:
        stored = run.stored  # the file is there while the batch is active, whenever it was to expire
        async for piece in self._store.content(StoredFile(stored.input_file, stored.scope, 0, "", "batch")):
            yield piece

    async def _open_lines(self, run: _Run) -> AsyncIterator[Numbered]:
        """The lines that have no result, in order."""
        splitter = LineSplitter(self._limits.max_line_bytes)
        async for piece in self._input(run):
            for line in splitter.feed(piece):
                if line[0] not in run.done:
                    yield line
        for line in splitter.close():
            if line[0] not in run.done:
                yield line

    # Requests

    async def _answer_all(self, run: _Run) -> None:
        """Until every request has a result, the batch is cancelled or its window is over."""

        async def work(line: Numbered, seat: Seat) -> None:
            await self._answer_line(run, line, seat)

        group = (run.stored.scope, run.stored.id)
        seats = await self._all_seats()
        run.work = asyncio.ensure_future(work_through(self._open_lines(run), work, seats, group))
        try:
            while not run.work.done() and not run.cancelling and not self._expired(run):
                await asyncio.wait([run.work], timeout=self._limits.tick_seconds)
        finally:
            run.work.cancel()
            (outcome,) = await asyncio.gather(run.work, return_exceptions=True)
            run.work = None
        if isinstance(outcome, BaseExceptionGroup):  # the first fault ended the others
            raise outcome.exceptions[0]

    async def _answer_line(self, run: _Run, line: Numbered, seat: Seat) -> None:
        number, text = line
        assert text is not None  # such a file is refused
        request = read_line(text)
        caller = Caller(run.stored.scope, BACKGROUND + max(0, run.stored.priority))
        kind: Kind = "output"
        used = TokenCounts()
        try:
            body, used = await self._answer(run.batch.endpoint, to_json(request.body), caller, seat)
            status = 200
        except MossoError as error:
            kind, status, body = "error", status_of(error), error_json(error)
        result = result_line(request.custom_id, status=status, body=body)
        await self._record(run, [StoredResult(number, kind, result, used)])
        run.count(kind, used)

    async def _answer(self, path: str, body: bytes, caller: Caller, seat: Seat) -> tuple[bytes, TokenCounts]:
        """Errors are those that to ask again would not mend."""
        while True:
            seconds = self._limits.retry_seconds
            try:
                return await self._endpoints.answer(path, body, caller)
            except OverloadedError as error:
                seconds = error.retry_after
            except UnavailableError:
                pass  # the engine starts again, or this process ends
            except EngineError:
                if not self._engine_has_ended():
                    raise
            except MossoError:
                raise
            except Exception as error:
                logger.error("unexpected error", exc_info=error)
                raise EngineError("The server failed while it worked on the request.") from error
            await seat.away(seconds)

    def _engine_has_ended(self) -> bool:
        """For good: this process drains, and the failure says nothing of the request that met it."""
        try:
            _ = self._source.limits
        except EngineError:
            return True
        except MossoError:
            pass
        return False

    async def _all_seats(self) -> Seats:
        """Made when the first batch runs: the engine says how much it can hold once it is ready."""
        while self._seats is None:
            try:
                at_once = self._limits.concurrency or min(MOST_AT_ONCE, self._source.limits.max_rows)
            except UnavailableError:
                await asyncio.sleep(self._limits.retry_seconds)
            else:
                self._seats = Seats(at_once)
        return self._seats

    def _expired(self, run: _Run) -> bool:
        return self._settings.now() >= run.batch.expires_at

    # The store

    async def _record(self, run: _Run, results: list[StoredResult]) -> None:
        await self._patiently(lambda: self._store.record(run.stored.id, results))
        run.done.update(result.number for result in results)

    async def _save(self, run: _Run) -> None:
        await self._patiently(lambda: self._store.put(run.record()))

    async def _recount(self, run: _Run) -> None:
        """What the store has is what is: a result may have been kept while its request was cancelled."""
        tally = await self._store.tally(run.stored.id)
        run.done = set(tally.numbers)
        run.told(tally.completed, tally.failed, tally.usage)

    async def _patiently(self, write: Callable[[], Awaitable[None]]) -> None:
        """A disk that is full now may have room soon; StoreError when it has none for too long."""
        clock = asyncio.get_running_loop().time
        end, told = clock() + self._limits.store_patience_seconds, False
        while True:
            try:
                return await write()
            except StoreError as error:
                if clock() >= end:
                    raise
                if not told:
                    logger.warning("a batch waits for its store: %s", error.message)
                told = True
            await asyncio.sleep(self._limits.retry_seconds)

    def _enter(self, run: _Run, status: BatchStatus) -> None:
        run.batch.status = status
        setattr(run.batch, f"{status}_at", self._settings.now())

    async def _over(self, run: _Run, status: Literal["completed", "expired", "cancelled"]) -> None:
        """The batch's end and its output files are stored as one."""
        self._name_outputs(run)
        self._enter(run, status)
        await self._patiently(lambda: self._store.put(run.record(), run.outputs))

    def _name_outputs(self, run: _Run) -> None:
        batch, run.outputs = run.batch, []
        if batch.request_counts.completed:
            run.outputs.append(self._output(run, "output"))
            batch.output_file_id = run.outputs[-1].id
        if batch.request_counts.failed:
            run.outputs.append(self._output(run, "error"))
            batch.error_file_id = run.outputs[-1].id

    def _output(self, run: _Run, kind: Kind) -> StoredFile:
        now, keep = self._settings.now(), run.stored.keep_outputs
        return StoredFile(
            id=f"file-{uuid.uuid4().hex}",
            scope=run.stored.scope,
            created=now,
            filename=f"{run.stored.id}_{kind}.jsonl",
            purpose="batch_output",
            expires=None if keep is None else now + keep,
            batch=run.stored.id,
            kind=kind,
        )

    async def _fail(self, run: _Run, problems: list[LineProblem]) -> None:
        run.batch.errors = BatchErrors(data=problems)
        self._name_outputs(run)
        self._enter(run, "failed")
        await self._settle(run)

    async def _settle(self, run: _Run) -> None:
        """Store a failure; while that fails too it is kept here, and tried again when somebody asks."""
        try:
            await self._store.put(run.record(), run.outputs)
        except StoreError as error:
            run.unsaved = True
            logger.error("the end of batch %s is not stored: %s", run.stored.id, error.message)
        else:
            if run.unsaved:
                del self._runs[run.stored.id]
            run.unsaved = False


def _custom_id(text: bytes | None) -> str:
    assert text is not None  # such a file is refused
    return read_line(text).custom_id


def _sum(one: TokenCounts, other: TokenCounts) -> TokenCounts:
    return TokenCounts(
        one.prompt + other.prompt,
        one.cached + other.cached,
        one.generated + other.generated,
        one.reasoning + other.reasoning,
    )


def _counts(usage: BatchUsage) -> TokenCounts:
    return TokenCounts(
        usage.input_tokens,
        usage.input_tokens_details.cached_tokens,
        usage.output_tokens,
        usage.output_tokens_details.reasoning_tokens,
    )


def _usage(counts: TokenCounts) -> BatchUsage:
    return BatchUsage(
        input_tokens=counts.prompt,
        input_tokens_details=InputTokensDetails(cached_tokens=counts.cached),
        output_tokens=counts.generated,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=counts.reasoning),
        total_tokens=counts.prompt + counts.generated,
    )
