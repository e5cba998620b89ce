"""The Responses API: body → engine request → stream events, the whole answer, and what the store keeps."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import from_json, to_json

from mosso.api.chat_prompt import effort_named
from mosso.api.context import room_for
from mosso.api.errors import detail_of
from mosso.api.generation import Choice, closing, generate
from mosso.api.observer import Observer
from mosso.api.responses_items import developer_content, history, item_json, new_id, read_items
from mosso.api.responses_schema import (
    STORED_ITEMS,
    IncompleteDetails,
    InputTokensDetails,
    Item,
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
from mosso.api.sampling import choice_requests, sampling_params
from mosso.api.sealing import Sealer
from mosso.api.settings import ApiSettings
from mosso.api.thoughts import Thoughts, ThoughtStore
from mosso.api.usage import Report, TokenCounts
from mosso.api.wire import check_model
from mosso.core.errors import EngineError, MossoError, NotFoundError, OverloadedError, RequestError
from mosso.core.requests import Request
from mosso.core.source import TokenSource
from mosso.harmony.conversation import Conversation, Effort, Message, Role, SystemContent
from mosso.harmony.renderer import Renderer
from mosso.harmony.tokenizer import Tokenizer

logger = logging.getLogger("mosso.api")


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
            previous_response_id=body.previous_response_id,
            reasoning={"effort": job.effort, "summary": None},
            store=self.stored,
            temperature=body.temperature if body.temperature is not None else sampling.temperature,
            text={"format": {"type": "text"}, "verbosity": "medium"},
            tool_choice=body.tool_choice,
            tools=[_tool_json(tool.model_dump()) for tool in body.functions],
            top_logprobs=body.top_logprobs,
            top_p=body.top_p if body.top_p is not None else sampling.top_p,
            truncation=body.truncation,
            usage=_usage(self.machine.counts) if over else None,
            user=body.user,
        )
        return made.model_dump()

    def numbered(self, events: Sequence[Event]) -> list[bytes]:
        """The events' JSON, numbered in the order in which they are told."""
        told = [
            to_json({"type": event["type"], "sequence_number": self.count + place, **event})
            for place, event in enumerate(events)
        ]
        self.count += len(told)
        return told

    def opening(self) -> list[bytes]:
        now = self.snapshot()
        return self.numbered(
            [{"type": f"response.{name}", "response": now} for name in ("created", "in_progress")]
        )

    def ending(self) -> list[bytes]:
        """The last event; a cancelled response has none of its own in the specification."""
        if self.status == "cancelled":
            return []
        return self.numbered([{"type": f"response.{self.status}", "response": self.snapshot()}])


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
    ) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self._settings = settings
        self._observer = observer
        self._thoughts = thoughts
        self._store = store
        self._sealer = sealer

    async def earlier(self, body: ResponsesRequest, scope: str) -> list[StoredResponse]:
        """The responses that `body` follows, oldest first; NotFoundError if they are not (all) here."""
        if body.previous_response_id is None:
            return []
        return await self._chain(scope, body.previous_response_id, "previous_response_id")

    async def _chain(self, scope: str, response_id: str, param: str | None) -> list[StoredResponse]:
        chain = await self._store.chain(scope, response_id)
        if not chain:
            raise not_found(response_id, param)
        if chain[0].previous is not None:
            raise not_found(chain[0].previous, param)
        return chain

    def prepare(self, body: ResponsesRequest, earlier: Sequence[StoredResponse], scope: str) -> ResponseJob:
        """Translate `body`; RequestError says what is wrong with it. Any thread may do it."""
        check_model(body.model, self._settings.model_names)
        _check(body, earlier)
        given = read_items(body.input)
        items = [*_items_of(earlier), *given]
        if not items:
            raise RequestError("input: there is nothing to answer.", param="input")
        limits = self._source.limits
        effort = effort_named(body.reasoning.effort, self._settings.effort, param="reasoning.effort")
        prompt = self._prompt(body, items, scope, effort)
        sampling = sampling_params(
            body.sampling,
            self._settings.defaults,
            max_tokens=room_for(len(prompt), body.max_output_tokens, limits, param="input"),
            logprobs=body.logprobs,
            stop_ids=self._tokenizer.stop_ids,
            vocab_size=limits.vocab_size,
        )
        job_id = new_id("resp")
        fields = body.sampling.model_copy(update={"cache_salt": scope})
        return ResponseJob(
            id=job_id,
            scope=scope,
            created=self._settings.now(),
            body=body,
            items=to_json([item_json(item) for item in given]),
            request=choice_requests(job_id, prompt, sampling, fields)[0],
            model=body.model or self._settings.model,
            effort=effort,
        )

    def _prompt(
        self, body: ResponsesRequest, items: list[Item], scope: str, effort: Effort
    ) -> tuple[int, ...]:
        system = SystemContent(
            identity=self._settings.identity,
            knowledge_cutoff=self._settings.knowledge_cutoff,
            date=self._settings.date(),
            effort=effort,
        )
        head = [Message(Role.SYSTEM, system)]
        developer = developer_content(body, items)
        if developer is not None:
            head.append(Message(Role.DEVELOPER, developer))

        def thoughts_of(call_id: str) -> Thoughts:
            return self._thoughts.get(scope, call_id)

        def thinking_of(item: ReasoningItem) -> str:
            if item.encrypted_content is not None:
                return self._sealer.open(scope, item.encrypted_content)
            return "\n\n".join(part.text for part in item.content or [])

        said = list(history(items, thoughts_of, thinking_of))
        prompt = self._rendered(head, said)
        if body.truncation == "auto":
            room = self._source.limits.max_context - 1
            while len(prompt) > room and (later := _without_oldest_turn(said)):
                said = later
                prompt = self._rendered(head, said)
        return prompt

    def _rendered(self, head: list[Message], said: list[Message]) -> tuple[int, ...]:
        return tuple(self._renderer.render_for_completion(Conversation((*head, *said)), Role.ASSISTANT))

    def _answer(self, job: ResponseJob) -> Answer:
        def remember(call_id: str, thoughts: Thoughts) -> None:
            self._thoughts.put(job.scope, call_id, thoughts)

        def seal(text: str) -> str:
            return self._sealer.seal(job.scope, text)

        body = job.body
        options = ResponseOptions(
            functions=bool(body.functions) and body.tool_choice != "none",
            parallel=body.parallel_tool_calls,
            logprobs=body.logprobs,
            seal=seal if body.sealed else None,
        )
        prompt_tokens = len(job.request.prompt)
        self._observer.started(
            prompt_tokens=prompt_tokens, choices=1, max_tokens=job.request.sampling.max_tokens
        )
        machine = ResponseMachine(
            self._tokenizer,
            options,
            prompt_tokens=prompt_tokens,
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
            raise EngineError(answer.error.message)
        return to_json(answer.snapshot())

    def stream(self, job: ResponseJob, report: Report) -> AsyncGenerator[list[bytes]]:
        """The events as JSON, in batches that belong together. Closing it aborts the request.

        What fails before the first token raises; what fails later is the stream's last event.
        """
        return self._events(self._answer(job), report)

    async def _events(self, answer: Answer, report: Report) -> AsyncGenerator[list[bytes]]:
        machine, opening, opened = answer.machine, answer.opening(), False
        choice = Choice(answer.job.request, machine)
        try:
            async with closing(generate(self._source, [choice], self._observer)) as batches:
                async for _, events in batches:
                    yield ([] if opened else opening) + answer.numbered(events)
                    opened = True
            answer.status = "incomplete" if machine.finish_reason == "length" else "completed"
        except Exception as error:
            if not opened:
                raise
            yield answer.numbered(machine.stop())
            answer.status, answer.error = "failed", error_of(error)
        finally:
            report(machine.counts.usage())
        if answer.status == "completed":
            answer.completed = self._settings.now()
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

    async def retrieve(self, scope: str, response_id: str) -> bytes:
        """The stored response's JSON; NotFoundError if there is none."""
        record = await self._store.get(scope, response_id)
        if record is None:
            raise not_found(response_id)
        return record.body

    async def delete(self, scope: str, response_id: str) -> None:
        if not await self._store.delete(scope, response_id):
            raise not_found(response_id)

    async def input_items(self, scope: str, response_id: str) -> list[dict[str, Any]]:
        """All that the response was made from, oldest first: its input, and what came before it."""
        *before, last = await self._chain(scope, response_id, None)
        return [*_raw_items(before), *from_json(last.items)]


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
    if isinstance(error, OverloadedError):
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


def _items_of(records: Sequence[StoredResponse]) -> list[Item]:
    """The items of the conversation so far; their developer messages stay, earlier `instructions` do not."""
    return STORED_ITEMS.validate_python(_raw_items(records))


def _without_oldest_turn(said: list[Message]) -> list[Message]:
    """What is said from the second user message on; empty when there is none."""
    users = [place for place, message in enumerate(said) if message.role is Role.USER]
    return said[users[1] :] if len(users) > 1 else []


def _tool_json(tool: dict[str, Any]) -> dict[str, Any]:
    return tool | {"strict": bool(tool["strict"])}


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
