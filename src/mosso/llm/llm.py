"""`LLM`: a model, its engine, and plain calls on it."""

from __future__ import annotations

import asyncio
import queue
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, get_origin, get_type_hints, overload

from pydantic import TypeAdapter, ValidationError

from mosso.api.settings import ApiSettings, SamplingDefaults
from mosso.checkpoint.config import read_generation_defaults
from mosso.checkpoint.models import find_model
from mosso.core.errors import CheckpointError, UsageError
from mosso.engine.settings import EngineSettings
from mosso.llm.answers import Answer, Completion, Piece
from mosso.llm.conversation import ChatTurn, Message, completed, messages_of
from mosso.llm.progress import shown
from mosso.llm.runtime import End, Runtime

_FLAG = re.compile(
    "--(" + "|".join(name.replace("_", "-") for name in EngineSettings.__slots__) + r")(?![\w-])"
)

T = TypeVar("T")
Messages = str | Sequence[Message]


class LLM:
    """gpt-oss in this process's service, on its own engine process.

    model: "demo", a checkpoint folder, or the hub id of a model that `mosso pull` has brought. Further
    arguments are the engine's settings by their names, as `mosso serve --help` lists them
    (`device="cuda"`, `preset="throughput"`, `max_context=65536`, ...).

    Usable from any thread, and from any event loop through the methods that begin with `a`. Close it, or use
    it in a `with` block; it also closes when it is collected or Python ends. Errors are those of
    `mosso.core.errors`: UsageError for wrong arguments, RequestError for what the model cannot do.
    """

    def __init__(self, model: str | Path = "demo", **engine: Any) -> None:
        found = find_model(str(model))
        defaults = read_generation_defaults(found.folder)
        settings = ApiSettings(
            found.name,
            defaults=SamplingDefaults(
                temperature=defaults.temperature, top_p=defaults.top_p, top_k=defaults.top_k
            ),
        )
        self.model = found.name
        with _arguments_named():
            self._runtime = Runtime(_engine_settings(found.folder, engine), settings)
        self.notes = self._runtime.notes
        """Sentences about choices that the engine made."""

    # ---- conversations

    @overload
    def chat(self, messages: str | Sequence[Message], **options: Any) -> Answer: ...
    @overload
    def chat(self, messages: Sequence[str] | Sequence[Sequence[Message]], **options: Any) -> list[Answer]: ...
    def chat(self, messages: Any, **options: Any) -> Answer | list[Answer]:
        """The answer to a conversation, or the answers to several.

        messages: what the user says, as a string; or a conversation in the form of chat completions; or a
        list of either, which is answered as one batch, with a progress bar.

        tools: functions with type hints and docstrings, which are run when the model calls them and whose
        results it reads, up to `max_rounds` times (10); or descriptions as dicts, whose calls are returned.
        output_type: a pydantic model, or a type that pydantic knows; the answer is then bound to its schema
        and `parsed` holds the value.
        progress: whether a batch shows its progress.
        Other options are the fields of a chat completion: temperature, top_p, max_tokens, seed, stop,
        reasoning_effort, logprobs, ...
        """
        return self._runtime.run(self._chat(messages, options))

    async def achat(self, messages: Any, **options: Any) -> Any:
        """`chat`, awaited."""
        return await self._runtime.arun(self._chat(messages, options))

    def stream(self, messages: Messages, **options: Any) -> Stream:
        """`chat` for one conversation as it comes: iterate over its pieces, then read `.answer`."""
        return Stream(self._runtime, self._turn(messages, options))

    def astream(self, messages: Messages, **options: Any) -> AsyncStream:
        """`stream` for `async for`."""
        return AsyncStream(self._runtime, self._turn(messages, options))

    # ---- raw text

    @overload
    def generate(self, prompts: str, **options: Any) -> Completion: ...
    @overload
    def generate(self, prompts: Sequence[str], **options: Any) -> list[Completion]: ...
    def generate(self, prompts: Any, **options: Any) -> Completion | list[Completion]:
        """Continue raw text, without Harmony's form: one prompt, or a list of them as one batch.

        Options are the fields of a completion: temperature, max_tokens (256 unless given), seed, stop, ...
        """
        return self._runtime.run(self._generate(prompts, options))

    async def agenerate(self, prompts: Any, **options: Any) -> Any:
        """`generate`, awaited."""
        return await self._runtime.arun(self._generate(prompts, options))

    # ---- its end

    def close(self) -> None:
        """End the engine; what is under way ends with UnavailableError. May be called twice."""
        self._runtime.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> LLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        return f"LLM({self.model!r}{', closed' if self._runtime.closed else ''})"

    # ---- how

    def _turn(self, messages: Any, options: dict[str, Any]) -> ChatTurn:
        return ChatTurn(self._runtime.chat, self._runtime.tokenizer, messages_of(messages), options)

    async def _chat(self, messages: Any, options: dict[str, Any]) -> Answer | list[Answer]:
        progress = options.pop("progress", None)
        if not _is_batch(messages):
            return await self._turn(messages, options).answered()
        turns = [self._turn(each, options) for each in messages]
        return await self._all([turn.answered() for turn in turns], progress)

    async def _generate(self, prompts: Any, options: dict[str, Any]) -> Completion | list[Completion]:
        progress = options.pop("progress", None)
        service = self._runtime.completions
        if isinstance(prompts, str):
            return await completed(service, prompts, options)
        if not isinstance(prompts, Sequence):
            raise UsageError("prompts: give a string, or a list of strings")
        return await self._all([completed(service, prompt, options) for prompt in prompts], progress)

    async def _all(self, work: list[Coroutine[Any, Any, T]], progress: bool | None) -> list[T]:
        """All results, in order; as many at once as keep the engine full. The first error ends all."""
        room = asyncio.Semaphore(2 * self._runtime.limits.max_rows)
        hidden = progress is not None and not progress
        with shown(len(work), hidden=hidden) as advance:

            async def one(coroutine: Coroutine[Any, Any, T]) -> T:
                async with room:
                    result = await coroutine
                advance()
                return result

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(each)) for each in work]
            except* Exception as errors:
                raise _first(errors) from None
            finally:
                for each in work:
                    each.close()
        return [done.result() for done in tasks]


class Stream(Iterator[Piece]):
    """An answer as it comes. Closing it, or leaving its `with` block, ends the model's work on it."""

    def __init__(self, runtime: Runtime, turn: ChatTurn) -> None:
        self._turn = turn
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = False
        self._pump: Future[None] | None = None  # until there is one
        runtime.may_wait()
        self._pump = runtime.pump(turn.pieces(), self._items.put)

    def __next__(self) -> Piece:
        if self._over:
            raise StopIteration
        item = self._items.get()
        if not isinstance(item, End):
            return item  # type: ignore[no-any-return]
        closed, self._over = self._over, True  # closed meanwhile, by another thread
        if item.error is not None and not closed:
            raise item.error
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The whole of it; reads what is left of the stream."""
        for _ in self:
            pass
        return self._turn.answer

    def close(self) -> None:
        self._over = True
        if self._pump is not None:
            self._pump.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class AsyncStream(AsyncIterator[Piece]):
    """`Stream` for `async for`; `answer` is there when it has ended."""

    def __init__(self, runtime: Runtime, turn: ChatTurn) -> None:
        self._runtime = runtime
        self._turn = turn
        self._pieces = self._read()

    async def _read(self) -> AsyncGenerator[Piece]:
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Any] = asyncio.Queue()

        def put(item: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(items.put_nowait, item)

        pump = self._runtime.pump(self._turn.pieces(), put)
        try:
            while not isinstance(item := await items.get(), End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            pump.cancel()

    async def __anext__(self) -> Piece:
        return await anext(self._pieces)

    @property
    def answer(self) -> Answer:
        return self._turn.answer

    async def aclose(self) -> None:
        """End the model's work on it."""
        await self._pieces.aclose()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _is_batch(messages: Any) -> bool:
    listed = isinstance(messages, Sequence) and not isinstance(messages, str)
    return listed and bool(messages) and not isinstance(messages[0], dict)


def _engine_settings(folder: Path, given: dict[str, Any]) -> EngineSettings:
    known = set(EngineSettings.__slots__) - {"model"}
    for name in given:
        if name not in known:
            raise UsageError(f"LLM has no setting {name!r}; there are {', '.join(sorted(known))}")
        _require_type(name, given[name])
    return EngineSettings(folder, **given)


def _require_type(name: str, value: Any) -> None:
    """Only that: which values of the type there may be, the settings themselves say."""
    wanted = get_type_hints(EngineSettings)[name]
    if get_origin(wanted) is Literal:
        wanted = str
    try:
        TypeAdapter(wanted).validate_python(value, strict=True)
    except ValidationError:
        kind = wanted.__name__ if isinstance(wanted, type) else wanted
        raise UsageError(f"{name} is of type {kind}; it cannot be {value!r}") from None


@contextmanager
def _arguments_named() -> Iterator[None]:
    """What the engine says of flags is said of the arguments that gave them."""
    try:
        yield
    except UsageError as error:
        said = _FLAG.sub(lambda flag: flag[1].replace("-", "_"), error.message)
        if said == error.message or isinstance(error, CheckpointError):  # whose names are files' and tensors'
            raise
        raise UsageError(said) from None


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
