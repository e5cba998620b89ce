"""The api room's front: one object per app, with a service for each group of endpoints."""

from __future__ import annotations

from mosso.api.chat import ChatService
from mosso.api.completions import CompletionService
from mosso.api.endpoints import Endpoints
from mosso.api.messages import MessagesService
from mosso.api.observer import NullObserver, Observer
from mosso.api.ollama import OllamaService
from mosso.api.responses import ResponsesService
from mosso.api.responses_store import ResponseStore
from mosso.api.responses_toolset import Tools
from mosso.api.sealing import Sealer
from mosso.api.settings import ApiSettings
from mosso.api.text import TextService
from mosso.core.source import TokenSource
from mosso.harmony.tokenizer import Tokenizer

__all__ = ["Services", "Tokenizer"]


class Services:
    """`source` continues the requests, `tokenizer` must be the one of the source's checkpoint."""

    def __init__(
        self,
        source: TokenSource,
        tokenizer: Tokenizer,
        settings: ApiSettings,
        observer: Observer | None = None,
        *,
        store: ResponseStore,
        sealer: Sealer | None = None,
        tools: Tools | None = None,
    ) -> None:
        observer = observer or NullObserver()
        self.chat = ChatService(source, tokenizer, settings, observer)
        self.messages = MessagesService(self.chat)
        self.completions = CompletionService(source, tokenizer, settings, observer)
        self.ollama = OllamaService(self.chat, self.completions, tokenizer, settings)
        self.text = TextService(source, tokenizer, settings, self.chat)
        self.responses = ResponsesService(
            source,
            tokenizer,
            settings,
            observer,
            self.chat.thoughts,
            store,
            sealer or Sealer(),
            tools or Tools(),
        )
        self.endpoints = Endpoints(self.chat, self.completions, self.responses)
