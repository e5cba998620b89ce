"""/tokenize and /detokenize: text and conversations to token ids and back."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from mosso.api.caller import Caller
from mosso.api.chat import ChatService
from mosso.api.chat_schema import ChatMessage, ChatRequest, Tool
from mosso.api.completion_schema import TokenId
from mosso.api.completions import check_token_ids
from mosso.api.settings import ApiSettings
from mosso.api.wire import MAX_MESSAGES, WireRequest, check_model
from mosso.core.errors import RequestError
from mosso.core.source import TokenSource
from mosso.harmony.tokenizer import Tokenizer


class TokenizeRequest(WireRequest):
    """Either a prompt, or messages (with tools) as a chat completion would render them."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    tools: list[Tool] | None = None
    return_token_strs: bool = False


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(WireRequest):
    model: str | None = None
    tokens: list[TokenId]
    return_token_strs: bool = False


class DetokenizeResponse(BaseModel):
    prompt: str
    token_strs: list[str] | None = None  # of each token by itself


class TextService:
    """The tokenizer, over the wire."""

    def __init__(
        self, source: TokenSource, tokenizer: Tokenizer, settings: ApiSettings, chat: ChatService
    ) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._settings = settings
        self._chat = chat

    def tokenize(self, body: TokenizeRequest, caller: Caller) -> TokenizeResponse:
        check_model(body.model, self._settings.model_names)
        tokens = self._tokens(body, caller)
        return TokenizeResponse(
            count=len(tokens),
            max_model_len=self._source.limits.max_context,
            tokens=tokens,
            token_strs=self._strings(tokens) if body.return_token_strs else None,
        )

    def _tokens(self, body: TokenizeRequest, caller: Caller) -> list[int]:
        if (body.prompt is None) == (body.messages is None):
            raise RequestError("Give either prompt or messages.", param="prompt")
        if body.prompt is not None:
            if body.tools is not None:
                raise RequestError("tools go with messages, not with a prompt.", param="tools")
            return self._tokenizer.encode(body.prompt)
        fields: dict[str, Any] = {"messages": body.messages, "tools": body.tools}
        return list(self._chat.prompt_tokens(ChatRequest.model_construct(**fields), caller))

    def detokenize(self, body: DetokenizeRequest) -> DetokenizeResponse:
        """Control tokens appear as their names."""
        check_model(body.model, self._settings.model_names)
        check_token_ids(body.tokens, self._source.limits.vocab_size, "tokens")
        return DetokenizeResponse(
            prompt=self._tokenizer.decode(body.tokens, control=True),
            token_strs=self._strings(body.tokens) if body.return_token_strs else None,
        )

    def _strings(self, tokens: list[int]) -> list[str]:
        return [self._tokenizer.decode([token], control=True) for token in tokens]
