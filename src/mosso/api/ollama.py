"""Ollama's answers over the generation of chat: the same prompt, the same deltas, one JSON object a line.

A call is sent whole, as Ollama does: its arguments are an object. With `think` false the thinking is hidden.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json

from mosso.api.caller import Caller
from mosso.api.chat import ChatJob, ChatService
from mosso.api.chat_wire import logprob_entries
from mosso.api.completion_stream import TextPiece
from mosso.api.completions import CompletionJob, CompletionService
from mosso.api.deltas import CallArguments, CallStarted, ContentText, Delta, Finished, ReasoningText
from mosso.api.generation import closing
from mosso.api.ollama_prompt import chat_of, check_generate, generate_of, model_name, raw_of
from mosso.api.ollama_schema import OllamaChatRequest, OllamaGenerateRequest, OllamaRequest
from mosso.api.settings import ApiSettings
from mosso.api.usage import Report, Usage
from mosso.api.wire import check_model
from mosso.core.requests import TokenLogprob
from mosso.harmony.tokenizer import Tokenizer

Frame = Callable[["Part"], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class OllamaJob:
    """`work` is None where the client only wants the model loaded, as it always is."""

    work: ChatJob | CompletionJob | None
    model: str
    frame: Frame  # the dialect has two shapes for what is said
    top_logprobs: int | None
    thinking: bool  # the client is shown it
    stream: bool
    history: bool = False  # the last object holds the conversation's token ids


@dataclass(slots=True)
class Part:
    """What one object says; an answer that is not streamed is the sum of its parts."""

    content: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ending: dict[str, Any] = field(default_factory=dict)  # the last part's

    def add(self, other: Part) -> None:
        self.content += other.content
        self.thinking += other.thinking
        self.calls += other.calls
        self.logprobs += other.logprobs
        self.ending = other.ending


class OllamaService:
    """Everything /api/chat and /api/generate do, short of HTTP."""

    def __init__(
        self, chat: ChatService, completions: CompletionService, tokenizer: Tokenizer, settings: ApiSettings
    ) -> None:
        self._chat = chat
        self._completions = completions
        self._tokenizer = tokenizer
        self._settings = settings

    def prepare_chat(self, body: OllamaChatRequest, caller: Caller) -> OllamaJob:
        """Translate `body`; RequestError says what is wrong with it. Any thread may do it."""
        if not body.messages:
            return self._idle(body, _message)
        return _job(body, self._chat.prepare(chat_of(body), caller), _message)

    def prepare_generate(self, body: OllamaGenerateRequest, caller: Caller) -> OllamaJob:
        """Translate `body`; RequestError says what is wrong with it. Any thread may do it."""
        check_generate(body)
        if not body.prompt:
            return self._idle(body, _response)
        if body.raw:
            return _job(body, self._completions.prepare(raw_of(body), caller), _response)
        work = self._chat.prepare(generate_of(body), caller, before=tuple(body.context or ()))
        return _job(body, work, _response, history=True)

    async def stream(self, job: OllamaJob, report: Report) -> AsyncGenerator[list[bytes]]:
        """The answer's objects as JSON, in batches. Closing it aborts the request."""
        async with closing(self._parts(job, report)) as parts:
            async for batch in parts:
                yield [to_json(self._object(job, part)) for part in batch]

    async def complete(self, job: OllamaJob, report: Report) -> bytes:
        """The whole answer as JSON."""
        whole = Part()
        async with closing(self._parts(job, report)) as parts:
            async for batch in parts:
                for part in batch:
                    whole.add(part)
        return to_json(self._object(job, whole))

    def loaded(self, job: OllamaJob) -> bytes:
        """The answer to a request for nothing but the model."""
        return to_json(self._object(job, Part(ending={"done": True, "done_reason": "load"})))

    def _idle(self, body: OllamaRequest, frame: Frame) -> OllamaJob:
        check_model(model_name(body.model), self._settings.model_names)
        return _job(body, None, frame)

    async def _parts(self, job: OllamaJob, report: Report) -> AsyncGenerator[list[Part]]:
        assert job.work is not None, "there is work to do"
        writer = _Writer(job)
        async with closing(self._deltas(job.work, report)) as stream:
            async for deltas, usage in stream:
                batch = [part for delta in deltas for part in writer.parts(delta, usage)]
                if batch and job.history and batch[-1].ending:
                    assert isinstance(job.work, ChatJob)
                    batch[-1].ending["context"] = self._chat.history(job.work, writer.said)
                if batch:
                    yield batch

    async def _deltas(
        self, work: ChatJob | CompletionJob, report: Report
    ) -> AsyncGenerator[tuple[Sequence[Delta], Usage]]:
        if isinstance(work, ChatJob):
            async with closing(self._chat.deltas(work, report)) as stream:
                async for deltas, usage in stream:
                    yield deltas, usage
            return
        async with closing(self._completions.pieces(work, report)) as raw:
            async for pieces, usage in raw:
                yield [delta for piece in pieces for delta in _as_deltas(piece)], usage

    def _object(self, job: OllamaJob, part: Part) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        made = {"model": job.model, "created_at": now, **job.frame(part), "done": False, **part.ending}
        if part.logprobs and job.top_logprobs is not None:
            made["logprobs"] = logprob_entries(self._tokenizer, part.logprobs, job.top_logprobs)
        return made


def _job(
    body: OllamaRequest, work: ChatJob | CompletionJob | None, frame: Frame, *, history: bool = False
) -> OllamaJob:
    return OllamaJob(
        work=work,
        model=body.model,
        frame=frame,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        thinking=body.think is not False,
        stream=body.stream,
        history=history,
    )


def _message(part: Part) -> dict[str, Any]:
    """What /api/chat calls it."""
    message: dict[str, Any] = {"role": "assistant", "content": part.content}
    message |= {"thinking": part.thinking} if part.thinking else {}
    message |= {"tool_calls": part.calls} if part.calls else {}
    return {"message": message}


def _response(part: Part) -> dict[str, Any]:
    """What /api/generate calls it."""
    return {"response": part.content, **({"thinking": part.thinking} if part.thinking else {})}


def _as_deltas(piece: TextPiece) -> Iterator[Delta]:
    """A piece of raw text as a chat's deltas."""
    if piece.text or piece.logprobs:
        yield ContentText(piece.text, [entry for _, entry in piece.logprobs])
    if piece.finish is not None:
        yield Finished(piece.finish)


class _Writer:
    """Deltas → parts; keeps the time, and what of the answer was said."""

    def __init__(self, job: OllamaJob) -> None:
        self.said = ""
        self._job = job
        self._started = time.monotonic_ns()
        self._first: int | None = None  # when the first delta came
        self._call: CallStarted | None = None
        self._arguments = ""

    def parts(self, delta: Delta, usage: Usage) -> Iterator[Part]:
        if self._first is None:
            self._first = time.monotonic_ns()
        if isinstance(delta, CallArguments):
            self._arguments += delta.text
            return
        if self._call is not None:
            yield Part(calls=[self._whole_call(self._call)])
            self._call, self._arguments = None, ""
        match delta:
            case ReasoningText() if self._job.thinking:
                yield Part(thinking=delta.text)
            case ContentText() if delta.text or delta.logprobs:
                self.said += delta.text
                yield Part(delta.text, logprobs=delta.logprobs)
            case CallStarted():
                self._call = delta
            case Finished():
                yield Part(ending=self._ending(delta, usage, self._first))

    def _whole_call(self, call: CallStarted) -> dict[str, Any]:
        try:
            value = from_json(self._arguments)
        except ValueError:
            value = None
        arguments = value if isinstance(value, dict) else {"arguments": self._arguments}
        return {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": arguments}}

    def _ending(self, end: Finished, usage: Usage, first: int) -> dict[str, Any]:
        now = time.monotonic_ns()
        return {
            "done": True,
            "done_reason": "length" if end.reason == "length" else "stop",
            "total_duration": now - self._started,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": first - self._started,
            "eval_count": usage.completion_tokens,
            "eval_duration": max(now - first, 1),  # clients divide by it
        }
