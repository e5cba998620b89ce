"""Chat completions: body → engine requests → the answer, whole or in chunks."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic_core import to_json

from mosso.api.caller import Caller
from mosso.api.chat_prompt import conversation_of
from mosso.api.chat_schema import ChatRequest
from mosso.api.chat_stream import ChatChoice, ChatOptions
from mosso.api.chat_wire import FINGERPRINT, ChoiceFold, ChunkWriter
from mosso.api.completions import check_token_ids
from mosso.api.context import room_for
from mosso.api.deltas import Delta
from mosso.api.generation import Choice, closing, generate
from mosso.api.observer import Observer
from mosso.api.running import Running
from mosso.api.sampling import check_stop_strings, check_stream_options, choice_requests, sampling_params
from mosso.api.settings import ApiSettings
from mosso.api.structure import turn_of, with_turn
from mosso.api.thoughts import Thoughts, ThoughtStore
from mosso.api.tiers import ServedTier, served_tier
from mosso.api.usage import Report, Usage, sum_counts
from mosso.api.wire import check_model
from mosso.core.constraints import Turn
from mosso.core.errors import RequestError
from mosso.core.requests import EngineLimits, Request
from mosso.core.source import TokenSource
from mosso.harmony.conversation import Channel, Conversation, Message, Role
from mosso.harmony.renderer import Renderer
from mosso.harmony.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatJob:
    """A translated chat request, ready for the engine."""

    id: str
    created: int
    model: str
    requests: tuple[Request, ...]  # one a choice
    options: ChatOptions
    top_logprobs: int | None
    cache_salt: str  # the caller's scope is in it
    service_tier: ServedTier
    stream: bool
    include_usage: bool
    continuous_usage: bool

    @property
    def prompt_tokens(self) -> int:
        return len(self.requests[0].prompt)


class ChatService:
    """Everything /v1/chat/completions does, short of HTTP."""

    def __init__(
        self, source: TokenSource, tokenizer: Tokenizer, settings: ApiSettings, observer: Observer
    ) -> None:
        self.thoughts = ThoughtStore(settings.max_thoughts, settings.max_thought_bytes)
        self._source = source
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self._settings = settings
        self._observer = observer
        self.running = Running(source)

    def prompt_tokens(
        self, body: ChatRequest, caller: Caller, before: tuple[int, ...] = ()
    ) -> tuple[int, ...]:
        """The prompt that `body` renders to. CPU work that grows with the prompt; any thread may do it.

        With `before`, token ids of a conversation that `history` gave, it goes on from there.
        """
        salt = caller.salt(body.cache_salt)

        def thoughts_of(call_id: str) -> Thoughts:
            return self.thoughts.get(salt, call_id)

        conversation = conversation_of(body, self._settings, thoughts_of)
        if before:  # it has a system message
            conversation = Conversation(conversation.messages[1:])
        return before + tuple(self._renderer.render_for_completion(conversation, Role.ASSISTANT))

    def history(self, job: ChatJob, answer: str) -> list[int]:
        """The conversation of `job`, whose answer was `answer`, for a prompt that goes on from it."""
        opening = self._renderer.render_for_completion(Conversation(()), Role.ASSISTANT)
        final = Message(Role.ASSISTANT, answer, channel=Channel.FINAL)
        return [*job.requests[0].prompt[: -len(opening)], *self._renderer.render_message(final)]

    def counted(self, body: ChatRequest, caller: Caller) -> int:
        """Tokens of the prompt of `body`, which must be for the model that is served."""
        check_model(body.model, self._settings.model_names)
        return len(self.prompt_tokens(body, caller))

    def prepare(self, body: ChatRequest, caller: Caller, *, before: tuple[int, ...] = ()) -> ChatJob:
        """Translate `body`; RequestError says what is wrong with it. Any thread may do it.

        `before`: see prompt_tokens.
        """
        check_model(body.model, self._settings.model_names)
        _check(body, self._settings)
        limits = self._source.limits
        turn = turn_of(body)
        check_token_ids(before, limits.vocab_size, "context")
        prompt = self.prompt_tokens(body, caller, before)
        options = body.stream_options if body.stream else None
        job_id = f"chatcmpl-{uuid.uuid4().hex}"
        requests = self._requests(job_id, body, prompt, limits, caller, turn)
        return ChatJob(
            id=job_id,
            created=self._settings.now(),
            model=body.model or self._settings.model,
            requests=requests,
            options=ChatOptions(
                functions=bool(body.tools) and body.tool_choice != "none",
                parallel=body.parallel_tool_calls,
                stops=body.stop_strings,
                user_stop_ids=frozenset(body.stop_token_ids or ()) - self._tokenizer.stop_ids,
                logprobs=body.logprobs,
            ),
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            cache_salt=caller.salt(body.cache_salt),
            service_tier=served_tier(body.service_tier, requests[0].priority),
            stream=body.stream,
            include_usage=bool(options and options.include_usage),
            continuous_usage=bool(options and options.continuous_usage_stats),
        )

    def _requests(
        self,
        job_id: str,
        body: ChatRequest,
        prompt: tuple[int, ...],
        limits: EngineLimits,
        caller: Caller,
        turn: Turn,
    ) -> tuple[Request, ...]:
        sampling = sampling_params(
            body,
            self._settings.defaults,
            max_tokens=room_for(len(prompt), _asked_tokens(body), limits, param="messages"),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            stop_ids=self._tokenizer.stop_ids,
            vocab_size=limits.vocab_size,
        )
        requests = choice_requests(job_id, prompt, sampling, body, caller)
        return tuple(with_turn(request, turn) for request in requests)

    def _choices(self, job: ChatJob) -> list[Choice[Delta]]:
        def remember(call_id: str, thoughts: Thoughts) -> None:
            self.thoughts.put(job.cache_salt, call_id, thoughts)

        self._observer.started(
            prompt_tokens=job.prompt_tokens,
            choices=len(job.requests),
            max_tokens=job.requests[0].sampling.max_tokens,
        )
        return [
            Choice(
                request,
                ChatChoice(
                    self._tokenizer,
                    job.options,
                    prompt_tokens=job.prompt_tokens,
                    new_call_id=_new_call_id,
                    on_call=remember,
                    on_repair=self._observer.repaired,
                ),
            )
            for request in job.requests
        ]

    @asynccontextmanager
    async def _events(
        self, job: ChatJob, choices: list[Choice[Delta]], report: Report
    ) -> AsyncGenerator[AsyncIterator[tuple[int, Sequence[Delta]]]]:
        try:
            with self.running.holding(job.id, job.requests):
                async with closing(generate(self._source, choices, self._observer)) as events:
                    yield events
        finally:
            report(_usage(choices))

    async def deltas(self, job: ChatJob, report: Report) -> AsyncGenerator[tuple[Sequence[Delta], Usage]]:
        """The one choice of `job` as it comes, with the usage so far: what other dialects are made from."""
        choices = self._choices(job)
        async with self._events(job, choices, report) as events:
            async for _, deltas in events:
                yield deltas, _usage(choices)

    async def complete(self, job: ChatJob, report: Report) -> bytes:
        """The whole answer as JSON."""
        choices = self._choices(job)
        folds = [ChoiceFold() for _ in choices]
        async with self._events(job, choices, report) as events:
            async for index, deltas in events:
                for delta in deltas:
                    folds[index].add(delta)
        fields, top = self._settings.reasoning_fields, job.top_logprobs
        answer = {
            "id": job.id,
            "object": "chat.completion",
            "created": job.created,
            "model": job.model,
            "choices": [fold.choice(index, self._tokenizer, fields, top) for index, fold in enumerate(folds)],
            "usage": _usage(choices),
            "service_tier": job.service_tier,
            "system_fingerprint": FINGERPRINT,
        }
        return to_json(answer)

    async def stream(self, job: ChatJob, report: Report) -> AsyncGenerator[list[bytes]]:
        """The chunks as JSON, in batches that belong together. Closing it aborts the request."""
        choices = self._choices(job)
        writer = ChunkWriter(
            self._tokenizer,
            id=job.id,
            created=job.created,
            model=job.model,
            fields=self._settings.reasoning_fields,
            top=job.top_logprobs,
            usage_field=job.include_usage,
            service_tier=job.service_tier,
        )
        opened: set[int] = set()
        async with self._events(job, choices, report) as events:
            async for index, deltas in events:
                batch = [] if index in opened else [writer.opening(index)]
                opened.add(index)
                usage = _usage(choices) if job.continuous_usage else None
                for delta in deltas:
                    chunk = writer.delta(index, delta, usage)
                    if chunk is not None:
                        batch.append(chunk)
                if batch:
                    yield batch
        if job.include_usage:
            yield [writer.usage(_usage(choices))]


def _new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _usage(choices: list[Choice[Delta]]) -> Usage:
    return sum_counts([[choice.machine.counts for choice in choices]]).usage()


def _asked_tokens(body: ChatRequest) -> int | None:
    return body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens


def _check(body: ChatRequest, settings: ApiSettings) -> None:
    """The rules that hold between fields."""
    check_stream_options(body)
    check_stop_strings(body, settings.max_stops)
    if body.n > settings.max_choices:
        raise RequestError(f"n: at most {settings.max_choices} choices are made here.", param="n")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise RequestError(
            "max_tokens and max_completion_tokens mean the same; give one of them.", param="max_tokens"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs is only allowed when logprobs is true.", param="top_logprobs")
