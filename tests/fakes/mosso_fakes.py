"""For tests of the text side: a small vocabulary, a token source that follows a script, Harmony as text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from mosso.api.responses_store import StoredResponse, StoreError
from mosso.api.settings import ApiSettings
from mosso.core.errors import UnavailableError
from mosso.core.requests import EngineLimits, EngineStats, FinishReason, Request, TokenEvent, TokenLogprob
from mosso.harmony.tokenizer import Tokenizer

SECRET = "xyzzy-plugh-4711"
"""Planted where people write, and looked for where it must not be."""
CONTROL = ("startoftext", "endoftext", "return", "constrain", "channel", "start", "end", "message", "call")


def small_tokenizer() -> Tokenizer:
    """Ids 0-255 are the bytes, in order; then nine control tokens; then a few merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable}
    alphabet |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    vocab = {alphabet[byte]: byte for byte in range(256)}
    added = [{"id": 256 + i, "content": f"<|{name}|>", "special": True} for i, name in enumerate(CONTROL)]
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n")]
    vocab |= {left + right: 265 + i for i, (left, right) in enumerate(merges)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return Tokenizer(
        {
            "version": "1.0",
            "added_tokens": [{**token, **flags} for token in added],
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            },
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]},
        }
    )


def harmony(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of a stream in which control tokens are written by name."""
    tokens: list[int] = []
    for part in re.split(r"(<\|\w+\|>)", text):
        name = part.strip("<|>")
        if part.startswith("<|"):
            tokens.append(256 + CONTROL.index(name))
        else:
            tokens.extend(tokenizer.encode(part))
    return tuple(tokens)


class ScriptedSource:
    """A TokenSource that replays token lists, one token an event unless `batch` says more.

    `script(request)` gives the tokens. `open` are the requests whose stream has not ended, `aborted` those
    that were closed before their end, `seen` all of them in order. `gate`, when set, is awaited before
    every event. `stats_value`, `limits_error` and `stats_error` are what a test wants to be told.
    """

    def __init__(self, script: Callable[[Request], Sequence[int] | Iterable[TokenEvent]]) -> None:
        self.script = script
        self.batch = 1
        self.logprob = -0.5  # of every token
        self.max_context = 4096
        self.vocab_size = 269
        self.seen: list[Request] = []
        self.open: set[str] = set()
        self.aborted: list[str] = []
        self.thought: list[str] = []  # ids whose thinking was ended
        self.gate: Callable[[Request], Awaitable[object]] | None = None
        self.stats_value = EngineStats(kv_blocks_total=10, kv_blocks_free=8, kv_blocks_held=2, steps=3)
        self.limits_error: Exception | None = None
        self.stats_error: Exception | None = None
        self.start_error: Exception | None = None

    @property
    def limits(self) -> EngineLimits:
        if self.limits_error is not None:
            raise self.limits_error
        return EngineLimits(self.max_context, 1 << 20, 64, self.vocab_size)

    async def stream(self, request: Request) -> AsyncIterator[TokenEvent]:
        self.seen.append(request)
        if self.start_error is not None:
            raise self.start_error
        self.open.add(request.id)
        finished = False
        try:
            for event in self._events(request):
                await asyncio.sleep(0)
                if self.gate is not None:
                    await self.gate(request)
                finished = event.finish is not None
                yield event
        finally:
            self.open.discard(request.id)
            if not finished:
                self.aborted.append(request.id)

    def _events(self, request: Request) -> Iterable[TokenEvent]:
        script = list(self.script(request))
        if script and isinstance(script[0], TokenEvent):
            yield from script
            return
        tokens = script[: request.sampling.max_tokens]
        stops = [i for i, token in enumerate(tokens) if token in request.sampling.stop_ids]
        tokens = tokens[: stops[0] + 1] if stops else tokens
        reason = FinishReason.STOP if stops else FinishReason.LENGTH
        for start in range(0, len(tokens), self.batch):
            piece = tuple(tokens[start : start + self.batch])
            last = start + self.batch >= len(tokens)
            yield TokenEvent(
                request.id,
                piece,
                logprobs=self._logprobs(request, piece),
                finish=reason if last else None,
                cached_tokens=min(16, len(request.prompt) - 1),
            )

    def _logprobs(self, request: Request, tokens: tuple[int, ...]) -> tuple[TokenLogprob, ...]:
        count = request.sampling.logprobs
        if count is None:
            return ()
        return tuple(
            TokenLogprob(token, self.logprob, tuple((other, -1.0 - other) for other in range(97, 97 + count)))
            for token in tokens
        )

    async def abort(self, request_id: str) -> None:
        self.open.discard(request_id)

    async def end_thinking(self, request_id: str) -> None:
        self.thought.append(request_id)

    async def stats(self) -> EngineStats:
        if self.stats_error is not None:
            raise self.stats_error
        return self.stats_value

    async def close(self) -> None:
        self.limits_error = UnavailableError("The engine is closed.")


class MemoryStore:
    """A ResponseStore of plain dicts; `failing` makes every method raise StoreError."""

    def __init__(self) -> None:
        self.records: dict[str, StoredResponse] = {}
        self.told: dict[str, list[bytes]] = {}
        self.failing = False

    async def put(self, record: StoredResponse) -> None:
        self._check()
        self.records[record.id] = record

    async def append(self, id: str, first: int, events: Sequence[bytes]) -> None:  # noqa: A002
        self._check()
        assert len(self.told.setdefault(id, [])) == first
        self.told[id] += events

    async def events(self, scope: str, id: str, after: int) -> list[bytes]:  # noqa: A002
        return self.told.get(id, [])[after + 1 :] if await self.get(scope, id) else []

    async def get(self, scope: str, id: str) -> StoredResponse | None:  # noqa: A002
        self._check()
        record = self.records.get(id)
        return record if record is not None and record.scope == scope else None

    async def chain(self, scope: str, id: str) -> list[StoredResponse]:  # noqa: A002
        record = await self.get(scope, id)
        if record is None:
            return []
        return [*(await self.chain(scope, record.previous) if record.previous else []), record]

    async def active(self) -> list[StoredResponse]:
        self._check()
        return [record for record in self.records.values() if record.active]

    async def delete(self, scope: str, id: str) -> bool:  # noqa: A002
        found = await self.get(scope, id)
        return found is not None and self.records.pop(id) is found

    def _check(self) -> None:
        if self.failing:
            raise StoreError("the disk is full")


SETTINGS = ApiSettings(model="gpt-oss-test", aliases=("test",), date=lambda: "2025-06-28", now=lambda: 1000)
