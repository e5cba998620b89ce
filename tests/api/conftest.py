"""Services of the api room over a scripted token source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from mosso_fakes import SETTINGS, MemoryStore, ScriptedSource, harmony, small_tokenizer

from mosso.api.chat_schema import ChatRequest
from mosso.api.observer import NullObserver
from mosso.api.services import Services
from mosso.harmony.tokenizer import Tokenizer


class Watcher(NullObserver):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, int]] = []
        self.repairs: list[str] = []
        self.first = 0
        self.more = 0
        self.lost = 0

    def first_token(self, seconds: float) -> None:
        self.first += 1

    def more_tokens(self, count: int, seconds: float) -> None:
        self.more += count

    def finished(self, reason: str, *, generated_tokens: int, seconds: float) -> None:
        self.ends.append((reason, generated_tokens))

    def repaired(self, kind: str) -> None:
        self.repairs.append(str(kind))

    def not_stored(self):
        self.lost += 1


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return small_tokenizer()


@pytest.fixture
def encode(tokenizer: Tokenizer) -> Callable[[str], tuple[int, ...]]:
    """Harmony text → token ids."""
    return lambda text: harmony(tokenizer, text)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def make(tokenizer: Tokenizer, watcher: Watcher) -> Callable[..., tuple[Services, ScriptedSource]]:
    """Services over a source that replays a Harmony text, or what a callable makes of the request."""

    def build(script, **changes):
        follow = script if callable(script) else lambda request: harmony(tokenizer, script)
        source = ScriptedSource(follow)
        return Services(source, tokenizer, replace(SETTINGS, **changes), watcher, store=MemoryStore()), source

    return build


@pytest.fixture
def chat() -> Callable[..., ChatRequest]:
    """A chat body with one user message, and whatever fields a test wants."""

    def build(**fields):
        return ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}]} | fields)

    return build
