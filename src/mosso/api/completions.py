"""Text completions: raw prompts, continued. Text of a prompt never becomes a control token."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from mosso.api.caller import Caller
from mosso.api.chat_wire import FINGERPRINT, finite
from mosso.api.completion_schema import CompletionRequest
from mosso.api.completion_stream import TextChoice, TextPiece
from mosso.api.context import room_for
from mosso.api.generation import Choice, closing, generate
from mosso.api.observer import Observer
from mosso.api.sampling import check_stop_strings, check_stream_options, choice_requests, sampling_params
from mosso.api.settings import ApiSettings
from mosso.api.usage import Report, Usage, sum_counts
from mosso.api.wire import check_model
from mosso.core.errors import RequestError, UnsupportedError
from mosso.core.requests import EngineLimits, Request, TokenLogprob
from mosso.core.source import TokenSource
from mosso.harmony.tokenizer import Tokenizer

MAX_PROMPTS = 1024  # also the most choices of one request, over all its prompts


@dataclass(frozen=True, slots=True)
class CompletionJob:
    """A translated request: prompts × n engine requests, the choices of one prompt side by side."""

    id: str
    created: int
    model: str
    requests: tuple[Request, ...]
    n: int
    echoes: tuple[str, ...]  # one a prompt; empty text when not asked for
    stops: tuple[str, ...]
    user_stop_ids: frozenset[int]
    logprobs: int | None
    stream: bool
    include_usage: bool
    continuous_usage: bool

    @property
    def prompt_tokens(self) -> int:
        return sum(len(request.prompt) for request in self.requests[:: self.n])


class CompletionService:
    """Everything /v1/completions does, short of HTTP."""

    def __init__(
        self, source: TokenSource, tokenizer: Tokenizer, settings: ApiSettings, observer: Observer
    ) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._settings = settings
        self._observer = observer

    def prepare(self, body: CompletionRequest, caller: Caller) -> CompletionJob:
        """Translate `body`; RequestError says what is wrong with it. Any thread may do it."""
        check_model(body.model, self._settings.model_names)
        _check(body, self._settings)
        limits = self._source.limits
        prompts = self._prompts(body, limits)
        options = body.stream_options if body.stream else None
        job_id = f"cmpl-{uuid.uuid4().hex}"
        return CompletionJob(
            id=job_id,
            created=self._settings.now(),
            model=body.model or self._settings.model,
            requests=tuple(
                request
                for number, prompt in enumerate(prompts)
                for request in self._requests(f"{job_id}-{number}", body, prompt, limits, caller)
            ),
            n=body.n,
            echoes=tuple(self._tokenizer.decode(prompt) if body.echo else "" for prompt in prompts),
            stops=body.stop_strings,
            user_stop_ids=frozenset(body.stop_token_ids or ()) - self._tokenizer.stop_ids,
            logprobs=body.logprobs,
            stream=body.stream,
            include_usage=bool(options and options.include_usage),
            continuous_usage=bool(options and options.continuous_usage_stats),
        )

    def _prompts(self, body: CompletionRequest, limits: EngineLimits) -> list[tuple[int, ...]]:
        prompt = body.prompt
        many = not isinstance(prompt, str) and not _is_ids(prompt)
        parts: Sequence[Any] = prompt if many else [prompt]
        prompts = []
        for position, part in enumerate(parts):
            where = f"prompt[{position}]" if many else "prompt"
            tokens = tuple(self._tokenizer.encode(part) if isinstance(part, str) else part)
            check_token_ids(tokens, limits.vocab_size, where)
            if not tokens:
                raise RequestError(f"{where} is empty: there is nothing to continue.", param=where)
            prompts.append(tokens)
        return prompts

    def _requests(
        self,
        job_id: str,
        body: CompletionRequest,
        prompt: tuple[int, ...],
        limits: EngineLimits,
        caller: Caller,
    ) -> list[Request]:
        sampling = sampling_params(
            body,
            self._settings.defaults,
            max_tokens=room_for(len(prompt), body.max_tokens, limits, param="prompt"),
            logprobs=body.logprobs,
            stop_ids=self._tokenizer.stop_ids,
            vocab_size=limits.vocab_size,
        )
        return choice_requests(job_id, prompt, sampling, body, caller)

    def _choices(self, job: CompletionJob) -> list[Choice[TextPiece]]:
        self._observer.started(
            prompt_tokens=job.prompt_tokens,
            choices=len(job.requests),
            max_tokens=job.requests[0].sampling.max_tokens,
        )
        return [
            Choice(
                request,
                TextChoice(
                    self._tokenizer,
                    stops=job.stops,
                    user_stop_ids=job.user_stop_ids,
                    prompt_tokens=len(request.prompt),
                    offset=len(job.echoes[number // job.n]),
                ),
            )
            for number, request in enumerate(job.requests)
        ]

    @asynccontextmanager
    async def _events(
        self, job: CompletionJob, choices: list[Choice[TextPiece]], report: Report
    ) -> AsyncGenerator[AsyncIterator[tuple[int, Sequence[TextPiece]]]]:
        try:
            async with closing(generate(self._source, choices, self._observer)) as events:
                yield events
        finally:
            report(_usage(job, choices))

    async def pieces(
        self, job: CompletionJob, report: Report
    ) -> AsyncGenerator[tuple[Sequence[TextPiece], Usage]]:
        """The one continuation of `job` as it comes, with the usage so far."""
        choices = self._choices(job)
        async with self._events(job, choices, report) as events:
            async for _, pieces in events:
                yield pieces, _usage(job, choices)

    async def complete(self, job: CompletionJob, report: Report) -> bytes:
        """The whole answer as JSON."""
        choices = self._choices(job)
        wholes = [TextPiece(job.echoes[index // job.n]) for index in range(len(choices))]
        async with self._events(job, choices, report) as events:
            async for index, pieces in events:
                whole = wholes[index]
                for piece in pieces:
                    whole.text += piece.text
                    whole.logprobs += piece.logprobs
                    whole.finish = piece.finish
        answer = self._body(job, [self._choice(job, index, whole) for index, whole in enumerate(wholes)])
        return to_json(answer | {"usage": _usage(job, choices)})

    async def stream(self, job: CompletionJob, report: Report) -> AsyncGenerator[list[bytes]]:
        """The chunks as JSON, in batches that belong together. Closing it aborts the requests."""
        choices = self._choices(job)
        opened: set[int] = set()
        always = {"usage": None} if job.include_usage else {}
        async with self._events(job, choices, report) as events:
            async for index, pieces in events:
                echo = job.echoes[index // job.n]
                if index not in opened and echo:
                    yield [to_json(self._body(job, [self._choice(job, index, TextPiece(echo))]) | always)]
                opened.add(index)
                usage = {"usage": _usage(job, choices)} if job.continuous_usage else always
                yield [
                    to_json(self._body(job, [self._choice(job, index, piece)]) | usage) for piece in pieces
                ]
        if job.include_usage:
            yield [to_json(self._body(job, []) | {"usage": _usage(job, choices)})]

    def _body(self, job: CompletionJob, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": job.id,
            "object": "text_completion",
            "created": job.created,
            "model": job.model,
            "choices": choices,
            "system_fingerprint": FINGERPRINT,
        }

    def _choice(self, job: CompletionJob, index: int, piece: TextPiece) -> dict[str, Any]:
        logprobs = None
        if job.logprobs is not None and (piece.logprobs or not job.stream):
            logprobs = {
                "tokens": [self._name(entry.token) for _, entry in piece.logprobs],
                "token_logprobs": [finite(entry.logprob) for _, entry in piece.logprobs],
                "top_logprobs": [self._top(entry, job.logprobs) for _, entry in piece.logprobs],
                "text_offset": [offset for offset, _ in piece.logprobs],
            }
        return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

    def _top(self, entry: TokenLogprob, most: int) -> dict[str, float]:
        return {self._name(token): finite(logprob) for token, logprob in entry.top[:most]}

    def _name(self, token: int) -> str:
        return self._tokenizer.decode([token], control=True)


def check_token_ids(tokens: Sequence[int], vocab_size: int, where: str) -> None:
    for position, token in enumerate(tokens):
        if token >= vocab_size:
            raise RequestError(
                f"{where}[{position}]: {token} is not a token id; ids are 0 to {vocab_size - 1}.",
                param=f"{where}[{position}]",
            )


def _usage(job: CompletionJob, choices: list[Choice[TextPiece]]) -> Usage:
    counts = [choice.machine.counts for choice in choices]
    return sum_counts([counts[start : start + job.n] for start in range(0, len(counts), job.n)]).usage()


def _check(body: CompletionRequest, settings: ApiSettings) -> None:
    """The rules that hold between fields."""
    check_stream_options(body)
    check_stop_strings(body, settings.max_stops)
    if body.n > settings.max_choices:
        raise RequestError(f"n: at most {settings.max_choices} choices are made here.", param="n")
    if body.best_of is not None and body.best_of != body.n:
        raise UnsupportedError("best_of is not supported; ask for n choices and choose.", param="best_of")
    if body.echo and body.logprobs is not None:
        raise UnsupportedError("logprobs of an echoed prompt are not supported.", param="logprobs")
    prompts = 1 if isinstance(body.prompt, str) or _is_ids(body.prompt) else len(body.prompt)
    if prompts > MAX_PROMPTS:
        raise RequestError(f"prompt: at most {MAX_PROMPTS} prompts in one request.", param="prompt")
    if prompts * body.n > MAX_PROMPTS:
        raise RequestError(
            f"n: {prompts} prompts with {body.n} choices each are over the limit of {MAX_PROMPTS} choices.",
            param="n",
        )


def _is_ids(prompt: Sequence[object]) -> bool:
    """One prompt as token ids, rather than several prompts; an empty list is an empty prompt."""
    return not prompt or isinstance(prompt[0], int)
