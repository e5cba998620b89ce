"""The Responses API: body → engine request → stream events, the whole answer, and what the store keeps."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from mosso.api.caller import Caller
from mosso.api.context import room_for
from mosso.api.errors import detail_of
from mosso.api.generation import closing
from mosso.api.observer import Observer
from mosso.api.responses_background import Run, with_ending
from mosso.api.responses_functions import client_tools
from mosso.api.responses_items import (
    Memory,
    approved_calls,
    developer_content,
    history,
    item_json,
    new_id,
    read_items,
)
from mosso.api.responses_schema import (
    STORED_ITEMS,
    CustomTool,
    FunctionTool,
    IncompleteDetails,
    InputTokensDetails,
    Item,
    NamespaceTool,
    OutputTokensDetails,
    ReasoningItem,
    ResponseError,
    ResponseObject,
    ResponsesRequest,
    ResponseStatus,
    ResponsesUsage,
)
from mosso.api.responses_store import ResponseStore, StoredResponse, StoreError
from mosso.api.responses_stream import Event, ResponseMachine, ResponseOptions
from mosso.api.responses_structure import (
    choice_json,
    first_turn,
    format_json,
    later_turn,
)
from mosso.api.responses_tool_schema import (
    CodeInterpreterTool,
    McpApprovalRequestItem,
    McpListItem,
    McpServerTool,
    WebSearchTool,
)
from mosso.api.responses_toolset import Tools, Toolset, gather
from mosso.api.responses_turns import Turns
from mosso.api.running import Held, Running
from mosso.api.sampling import choice_requests, sampling_params
from mosso.api.sealing import Sealer
from mosso.api.settings import ApiSettings
from mosso.api.structure import with_turn
from mosso.api.thinking import effort_named
from mosso.api.thoughts import Thoughts, ThoughtStore
from mosso.api.tiers import served_tier
from mosso.api.usage import Report, TokenCounts
from mosso.api.wire import check_model
from mosso.core.errors import (
    EngineError,
    MossoError,
    NotFoundError,
    OverloadedError,
    QuotaError,
    RequestError,
    UnavailableError,
)
from mosso.core.requests import Request
from mosso.core.source import TokenSource
from mosso.harmony.conversation import Conversation, Effort, Message, Role, SystemContent
from mosso.harmony.renderer import Renderer
from mosso.harmony.tokenizer import Tokenizer

logger = logging.getLogger("mosso.api")
MOST_CALLS = 128  # of built-in tools in one response
FLUSH_SECONDS = 0.25  # that a background response's events may wait to be stored
MOST_UNSTORED = 256  # background responses that the store could not keep are kept in memory, so many of them


@dataclass(frozen=True, slots=True)
class ResponseJob:
    """A translated request, ready for the engine. `items`: its own input, as it is stored."""

    id: str
    scope: str
    created: int
    body: ResponsesRequest
    items: bytes
    request: Request
    model: str
    effort: str
    toolset: Toolset = field(default_factory=Toolset)
    approved: tuple[McpApprovalRequestItem, ...] = ()  # calls to be run before the first turn
    prompt: Callable[[Mapping[str, str]], tuple[int, ...]] | None = None  # with these calls' results


@dataclass(slots=True)
class Answer:
    """A response while it is made: its state, and the events so far by number."""

    job: ResponseJob
    machine: ResponseMachine
    status: ResponseStatus = "in_progress"
    stored: bool = False
    error: ResponseError | None = None
    completed: int | None = None
    count: int = field(default=0)  # events told

    def snapshot(self) -> dict[str, Any]:
        """The response object as of now."""
        job, body = self.job, self.job.body
        sampling = job.request.sampling
        over = self.status not in ("queued", "in_progress")
        made = ResponseObject(
            id=job.id,
            created_at=job.created,
            completed_at=self.completed,
            status=self.status,
            background=body.background,
            error=self.error,
            incomplete_details=IncompleteDetails(reason="max_output_tokens")
            if self.status == "incomplete"
            else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            max_tool_calls=body.max_tool_calls,
            metadata=body.metadata,
            model=job.model,
            output=[dict(item) for item in self.machine.output],
            parallel_tool_calls=body.parallel_tool_calls,
            service_tier=served_tier(body.service_tier, job.request.priority),
            previous_response_id=body.previous_response_id,
            reasoning={"effort": body.effort or job.effort, "summary": None},
            store=self.stored,
            temperature=body.temperature if body.temperature is not None else sampling.temperature,
            text={"format": format_json(body.text.format), "verbosity": "medium"},
            tool_choice=choice_json(body.tool_choice),
            tools=_tools_json(body, browser=job.toolset.browser is not None),
            top_logprobs=body.top_logprobs,
            top_p=body.top_p if body.top_p is not None else sampling.top_p,
            truncation=body.truncation,
            usage=_usage(self.machine.total) if over else None,
            user=body.user,
        )
        dumped = made.model_dump(exclude={"prompt_token_ids", "token_ids"})
        if body.return_token_ids and over:
            dumped |= {"prompt_token_ids": list(self.machine.prompt), "token_ids": list(self.machine.turn)}
        return dumped

    def numbered(self, events: Sequence[Event]) -> list[bytes]:
        """The events' JSON, numbered in the order in which they are told."""
        told = [
            to_json({"type": event["type"], "sequence_number": self.count + place, **event})
            for place, event in enumerate(events)
        ]
        self.count += len(told)
        return told

    def lifecycle(self, *names: str) -> list[bytes]:
        """Events that tell the response as of now."""
        now = self.snapshot()
        return self.numbered([{"type": f"response.{name}", "response": now} for name in names])

    def ending(self) -> list[bytes]:
        """The last event; a cancelled response has none of its own in the specification."""
        if self.status == "cancelled":
            return []
        return self.lifecycle(self.status)

    def generated(self, now: int) -> None:
        """The engine has ended it as it should."""
        self.status = "incomplete" if self.machine.finish_reason == "length" else "completed"
        if self.status == "completed":
            self.completed = now


class ResponsesService:
    """Everything /v1/responses does, short of HTTP. `scope` says whose responses: none finds another's."""

    def __init__(
        self,
        source: TokenSource,
        tokenizer: Tokenizer,
        settings: ApiSettings,
        observer: Observer,
        thoughts: ThoughtStore,
        store: ResponseStore,
        sealer: Sealer,
        tools: Tools,
    ) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self._settings = settings
        self._observer = observer
        self._thoughts = thoughts
        self._store = store
        self._sealer = sealer
        self._tools = tools
        self.running = Running(source)
        self._runs: dict[tuple[str, str], Run] = {}  # in the background, and such as could not be stored

    async def earlier(self, body: ResponsesRequest, scope: str) -> list[StoredResponse]:
        """The responses that `body` follows, oldest first; NotFoundError if they are not (all) here."""
        if body.previous_response_id is None:
            return []
        return await self._chain(scope, body.previous_response_id, "previous_response_id")

    async def gather(self, body: ResponsesRequest, earlier: Sequence[StoredResponse]) -> Toolset:
        """The built-in tools that `body` asks for. It may ask servers what they offer, within a time limit;
        RequestError for what is not to be had here."""
        known: dict[str, list[dict[str, Any]]] = {}
        if any(isinstance(tool, McpServerTool) for tool in body.tools):
            known = await asyncio.to_thread(_known_tools, body, earlier)
        return await gather(body, self._tools, known)

    async def _chain(self, scope: str, response_id: str, param: str | None) -> list[StoredResponse]:
        chain = await self._store.chain(scope, response_id)
        if not chain:
            raise not_found(response_id, param)
        if chain[0].previous is not None:
            raise not_found(chain[0].previous, param)
        return chain

    def prepare(
        self,
        body: ResponsesRequest,
        earlier: Sequence[StoredResponse],
        caller: Caller,
        toolset: Toolset | None = None,
    ) -> ResponseJob:
        """Translate `body`; RequestError says what is wrong with it. Any thread may do it.

        `toolset` is what `gather` gave; a body that names no built-in tool needs none.
        """
        check_model(body.model, self._settings.model_names)
        _check(body, earlier)
        toolset = toolset or Toolset()
        given = read_items(body.input)
        items = [*_items_of(earlier), *given]
        if not items:
            raise RequestError("input: there is nothing to answer.", param="input")
        limits = self._source.limits
        effort = effort_named(body.effort, self._settings.effort, param="reasoning.effort")

        def prompt_with(results: Mapping[str, str]) -> tuple[int, ...]:
            return self._prompt(body, items, caller.scope, effort, toolset, results)

        prompt = prompt_with({})
        sampling = sampling_params(
            body.sampling,
            self._settings.defaults,
            max_tokens=room_for(len(prompt), body.max_output_tokens, limits, param="input"),
            logprobs=body.logprobs,
            stop_ids=self._tokenizer.stop_ids,
            vocab_size=limits.vocab_size,
        )
        job_id = new_id("resp")
        turn = first_turn(body, toolset)
        approved = tuple(approved_calls(items))
        return ResponseJob(
            id=job_id,
            scope=caller.scope,
            created=self._settings.now(),
            body=body,
            items=to_json([item_json(item) for item in given]),
            request=with_turn(choice_requests(job_id, prompt, sampling, body.sampling, caller)[0], turn),
            model=body.model or self._settings.model,
            effort=effort,
            toolset=toolset,
            approved=approved,
            prompt=prompt_with if approved else None,
        )

    def _prompt(
        self,
        body: ResponsesRequest,
        items: list[Item],
        scope: str,
        effort: Effort,
        toolset: Toolset,
        results: Mapping[str, str],
    ) -> tuple[int, ...]:
        system = SystemContent(
            identity=body.chat_template_kwargs.model_identity or self._settings.identity,
            knowledge_cutoff=self._settings.knowledge_cutoff,
            date=self._settings.date(),
            effort=effort,
            namespaces=tuple(toolset.namespaces),
        )
        head = [Message(Role.SYSTEM, system)]
        developer = developer_content(body, items, toolset)
        if developer is not None:
            head.append(Message(Role.DEVELOPER, developer))

        def thoughts_of(call_id: str) -> Thoughts:
            return self._thoughts.get(scope, call_id)

        def thinking_of(item: ReasoningItem) -> str:
            if item.encrypted_content is not None:
                return self._sealer.open(scope, item.encrypted_content)
            return "\n\n".join(part.text for part in item.content or [])

        memory = Memory(thoughts_of, thinking_of, toolset.mcp_recipient, results)
        said = list(history(items, memory))
        prompt = self._rendered(head, said)
        if body.truncation == "auto" and len(prompt) >= self._source.limits.max_context:
            return self._truncated(head, said)
        return prompt

    def _truncated(self, head: list[Message], said: list[Message]) -> tuple[int, ...]:
        """Without as many of the oldest turns as it takes; found by halving, as rendering takes long."""
        users = [place for place, message in enumerate(said) if message.role is Role.USER][1:]
        fits = bisect_left(
            users,
            True,
            hi=max(0, len(users) - 1),  # beyond it: the last turn alone, whether it fits or not
            key=lambda place: len(self._rendered(head, said[place:])) < self._source.limits.max_context,
        )
        return self._rendered(head, said[users[fits] :] if users else said)

    def _rendered(self, head: list[Message], said: list[Message]) -> tuple[int, ...]:
        return tuple(self._renderer.render_for_completion(Conversation((*head, *said)), Role.ASSISTANT))

    def _answer(self, job: ResponseJob) -> Answer:
        def remember(call_id: str, thoughts: Thoughts) -> None:
            self._thoughts.put(job.scope, call_id, thoughts)

        def seal(text: str) -> str:
            return self._sealer.seal(job.scope, text)

        body = job.body
        offered = {tool.plain: tool for tool in client_tools(body)} if body.tool_choice != "none" else {}
        options = ResponseOptions(
            functions=bool(offered),
            tools=offered,
            hosted=job.toolset.find,
            annotations=job.toolset.annotations,
            most_calls=min(body.max_tool_calls or MOST_CALLS, MOST_CALLS),
            parallel=body.parallel_tool_calls,
            logprobs=body.logprobs,
            seal=seal if body.sealed else None,
        )
        machine = ResponseMachine(
            self._tokenizer,
            options,
            prompt=job.request.prompt,
            on_call=remember,
            on_repair=self._observer.repaired,
        )
        return Answer(job, machine, stored=body.store)

    async def complete(self, job: ResponseJob, report: Report) -> bytes:
        """The whole answer as JSON."""
        answer = self._answer(job)
        async with closing(self._events(answer, report)) as batches:
            async for _ in batches:
                pass
        if answer.status == "failed":
            assert answer.error is not None
            refused = answer.error.code == "invalid_prompt"
            raise (RequestError if refused else EngineError)(answer.error.message)
        return to_json(answer.snapshot())

    def stream(self, job: ResponseJob, report: Report) -> AsyncGenerator[list[bytes]]:
        """The events as JSON, in batches that belong together. Closing it aborts the request.

        What fails before the first token raises; what fails later is the stream's last event.
        """
        return self._events(self._answer(job), report)

    async def _made(self, answer: Answer) -> AsyncGenerator[Sequence[Event]]:
        """The events of the whole response, its built-in tools' included; they are closed at its end."""
        job = answer.job
        try:
            with self.running.holding(job.id, [job.request]) as held:
                async with closing(self._told(answer, held)) as batches:
                    async for events in batches:
                        yield events
        finally:
            await job.toolset.close()

    async def _told(self, answer: Answer, held: Held) -> AsyncGenerator[Sequence[Event]]:
        job, machine = answer.job, answer.machine
        opening = [event for listing in job.toolset.listings for event in machine.listed(listing)]
        turns = Turns(
            self._source,
            self._tokenizer,
            self._observer,
            machine,
            max_tokens=job.body.max_output_tokens,
            later=lambda: later_turn(
                job.body, job.toolset, hosted=machine.may_call, thought=machine.total.reasoning
            ),
            held=held,
        )
        request = job.request
        if job.approved:
            yield opening
            opening = []
            results: dict[str, str] = {}
            async for events in turns.approved(job.approved, job.toolset, results):
                yield events
            request = await asyncio.to_thread(self._with_results, job, results)
            machine.again(request.prompt)
        async with closing(turns.events(request)) as batches:
            async for events in batches:
                yield [*opening, *events]  # not before the engine has taken the request
                opening = []
        if opening:
            yield opening

    def _with_results(self, job: ResponseJob, results: Mapping[str, str]) -> Request:
        assert job.prompt is not None
        prompt = job.prompt(results)
        room = room_for(len(prompt), job.body.max_output_tokens, self._source.limits, param="input")
        return replace(job.request, prompt=prompt, sampling=replace(job.request.sampling, max_tokens=room))

    async def _events(self, answer: Answer, report: Report) -> AsyncGenerator[list[bytes]]:
        machine, opening, opened = answer.machine, answer.lifecycle("created", "in_progress"), False
        try:
            async with closing(self._made(answer)) as batches:
                async for events in batches:
                    yield ([] if opened else opening) + answer.numbered(events)
                    opened = True
            answer.generated(self._settings.now())
        except Exception as error:
            if not opened:
                raise
            yield answer.numbered(machine.stop())
            answer.status, answer.error = "failed", error_of(error)
        finally:
            report(machine.total.usage())
        await self._keep(answer)
        yield ([] if opened else opening) + answer.ending()

    async def _keep(self, answer: Answer) -> None:
        """Store what was asked to be stored. A store that fails costs the record, never the answer: the
        response says `store: false` then, and the failure is logged and counted."""
        if not answer.stored:
            return
        try:
            await self._store.put(_record(answer))
        except StoreError as error:
            answer.stored = False
            self._observer.not_stored()
            logger.error("response %s is not stored: %s", answer.job.id, error.message)

    async def start(self, job: ResponseJob, on_end: Callable[[], None]) -> Run:
        """Make the response in the background. It is stored before this returns, so that it is never lost
        in silence: UnavailableError if that fails. `on_end` is called when it has ended, if it started."""
        answer = self._answer(job)
        answer.status = "queued"
        run = Run(answer)
        try:
            await self._store.put(_record(answer))
        except StoreError as error:
            logger.error("response %s is not made: %s", job.id, error.message)
            raise UnavailableError(
                "Responses cannot be stored now, so none is made in the background."
            ) from None
        self._forget_unstored()
        self._runs[job.scope, job.id] = run
        run.tell(answer.lifecycle("created", "queued"))
        run.task = asyncio.create_task(self._work(run))
        run.task.add_done_callback(lambda task: on_end())
        return run

    async def _work(self, run: Run) -> None:
        answer, machine = run.answer, run.answer.machine
        answer.status = "in_progress"
        run.tell(answer.lifecycle("in_progress"))
        try:
            await self._generate(run)
            answer.generated(self._settings.now())
        except asyncio.CancelledError:
            if not run.cancelled:
                raise  # the process ends; the next one will find the response active, and say that it failed
            run.tell(answer.numbered(machine.stop()))
            answer.status = "cancelled"
        except Exception as error:
            run.tell(answer.numbered(machine.stop()))
            answer.status, answer.error = "failed", error_of(error)
        await self._keep(answer)
        run.tell(answer.ending(), last=True)
        await self._flush(run)
        if answer.stored:
            del self._runs[answer.job.scope, answer.job.id]

    async def _generate(self, run: Run) -> None:
        answer = run.answer
        flushed = time.monotonic()
        async with closing(self._made(answer)) as batches:
            async for events in batches:
                run.tell(answer.numbered(events))
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    await _to_its_end(self._flush(run))
                    flushed = time.monotonic()

    async def _flush(self, run: Run) -> None:
        """Store the events that are not yet; what fails is tried again with the next ones."""
        fresh = run.events[run.kept :]
        try:
            await self._store.append(run.answer.job.id, run.kept, fresh)
            run.kept += len(fresh)
        except StoreError as error:
            logger.warning("events of %s are not stored: %s", run.answer.job.id, error.message)

    def _forget_unstored(self) -> None:
        ended = [key for key, run in self._runs.items() if run.ended]
        for key in ended[: len(ended) - MOST_UNSTORED + 1 if len(ended) >= MOST_UNSTORED else 0]:
            del self._runs[key]

    async def recover(self) -> None:
        """What ran in the background when an earlier process ended has failed. Call it before serving."""
        error = ResponseError(code="server_error", message="The server ended while it made the response.")
        for record in await self._store.active():
            body = from_json(record.body) | {"status": "failed", "error": error.model_dump()}
            await self._store.put(replace(record, body=to_json(body), active=False))
            logger.warning("response %s was being made when the server ended: it has failed", record.id)

    async def follow(self, scope: str, response_id: str, after: int) -> AsyncGenerator[list[bytes]]:
        """The stream of a background response from the event after number `after` on."""
        run = self._runs.get((scope, response_id))
        if run is not None:
            return run.follow(after)
        body = await self._background(scope, response_id, "stream")
        events = with_ending(await self._store.events(scope, response_id, -1), body)

        async def told() -> AsyncGenerator[list[bytes]]:
            yield events[after + 1 :]

        return told()

    async def _background(self, scope: str, response_id: str, param: str | None) -> dict[str, Any]:
        """A stored response that was made in the background; RequestError for another."""
        body: dict[str, Any] = from_json(await self.retrieve(scope, response_id))
        if not body["background"]:
            raise RequestError(f"Response {response_id[:80]!r} was not made in the background.", param=param)
        return body

    async def cancel(self, scope: str, response_id: str) -> bytes:
        """End a background response; one that has ended stays as it is."""
        run = self._runs.get((scope, response_id))
        if run is None:
            return to_json(await self._background(scope, response_id, "response_id"))
        if not run.ended:
            await run.cancel()
        return to_json(run.answer.snapshot())

    async def retrieve(self, scope: str, response_id: str) -> bytes:
        """The response's JSON as it stands; NotFoundError if there is none."""
        run = self._runs.get((scope, response_id))
        if run is not None:
            return to_json(run.answer.snapshot())
        record = await self._store.get(scope, response_id)
        if record is None:
            raise not_found(response_id)
        return record.body

    async def delete(self, scope: str, response_id: str) -> None:
        run = self._runs.get((scope, response_id))
        if run is not None and not run.ended:
            await run.cancel()
        unstored = self._runs.pop((scope, response_id), None)
        if not await self._store.delete(scope, response_id) and unstored is None:
            raise not_found(response_id)

    async def input_items(self, scope: str, response_id: str) -> list[dict[str, Any]]:
        """All that the response was made from, oldest first: its input, and what came before it."""
        *before, last = await self._chain(scope, response_id, None)
        return [*_raw_items(before), *from_json(last.items)]


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Whoever is cancelled meanwhile waits for `work` first: a store that is left amid writing has written,
    and does not take the same again."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def not_found(response_id: str, param: str | None = None) -> NotFoundError:
    code = "previous_response_not_found" if param else "response_not_found"
    return NotFoundError(f"Response with id {response_id[:80]!r} not found.", param=param, code=code)


def error_of(error: Exception) -> ResponseError:
    """The error as a failed response tells it.

    One outside the tree is a fault of ours: logged with its traceback, shown without it.
    """
    if not isinstance(error, MossoError):
        logger.error("unexpected error", exc_info=error)
        error = EngineError("The server failed while it worked on the request.")
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"] = "server_error"
    if isinstance(error, OverloadedError | QuotaError):
        code = "rate_limit_exceeded"
    elif isinstance(error, RequestError):
        code = "invalid_prompt"
    return ResponseError(code=code, message=detail_of(error).message)


def _record(answer: Answer) -> StoredResponse:
    job = answer.job
    return StoredResponse(
        id=job.id,
        scope=job.scope,
        created=job.created,
        body=to_json(answer.snapshot()),
        items=job.items,
        previous=job.body.previous_response_id,
        active=answer.status in ("queued", "in_progress"),
    )


def _raw_items(records: Sequence[StoredResponse]) -> list[dict[str, Any]]:
    """Input and output of stored responses, in order."""
    return [
        item for record in records for item in (*from_json(record.items), *from_json(record.body)["output"])
    ]


def _known_tools(
    body: ResponsesRequest, earlier: Sequence[StoredResponse]
) -> dict[str, list[dict[str, Any]]]:
    """What servers offered when the conversation asked them first, by label."""
    given = [] if isinstance(body.input, str) else body.input
    known = {}
    for item in (*_raw_items(earlier), *given):
        if isinstance(item, dict) and item.get("type") == "mcp_list_tools" and not item.get("error"):
            try:
                listed = McpListItem.model_validate({key: v for key, v in item.items() if v is not None})
            except ValidationError:
                continue  # prepare says what is wrong with it
            known[listed.server_label] = [tool.model_dump() for tool in listed.tools]
    return known


def _items_of(records: Sequence[StoredResponse]) -> list[Item]:
    """The items of the conversation so far; their developer messages stay, earlier `instructions` do not."""
    return STORED_ITEMS.validate_python(_raw_items(records))


def _function_json(tool: FunctionTool) -> dict[str, Any]:
    rare = {"defer_loading", "allowed_callers", "output_schema"}
    given = tool.model_dump(include=rare, exclude_none=True)
    return tool.model_dump(exclude=rare) | {"strict": bool(tool.strict)} | given


def _tools_json(body: ResponsesRequest, *, browser: bool) -> list[dict[str, Any]]:
    """The tools that the request has, as it named them; what lets one into a server is not told again."""
    told = []
    for tool in body.tools:
        if isinstance(tool, FunctionTool):
            told.append(_function_json(tool))
        elif isinstance(tool, CustomTool | NamespaceTool):
            told.append(tool.model_dump(exclude_none=True))
        elif isinstance(tool, McpServerTool):
            told.append(tool.model_dump(exclude={"headers", "authorization"}, exclude_none=True))
        elif isinstance(tool, WebSearchTool) and browser:
            told.append(tool.model_dump(exclude_none=True))
        elif isinstance(tool, CodeInterpreterTool):
            told.append({"container": {"type": "auto"}} | tool.model_dump(exclude_none=True))
    return told


def _usage(counts: TokenCounts) -> ResponsesUsage:
    return ResponsesUsage(
        input_tokens=counts.prompt,
        input_tokens_details=InputTokensDetails(cached_tokens=counts.cached),
        output_tokens=counts.generated,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=counts.reasoning),
        total_tokens=counts.prompt + counts.generated,
    )


def _check(body: ResponsesRequest, earlier: Sequence[StoredResponse]) -> None:
    """The rules that hold between fields."""
    if body.background and not body.store:
        raise RequestError("background: a response in the background must be stored.", param="background")
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options is only allowed when stream is true.", param="stream_options")
    if earlier and earlier[-1].active:
        raise RequestError(
            "previous_response_id: the response is still being made.", param="previous_response_id"
        )
