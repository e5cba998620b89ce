"""The endpoints that generate, by their paths: a body in, a whole answer out, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mosso.api.caller import Caller
from mosso.api.chat import ChatService
from mosso.api.chat_schema import ChatRequest
from mosso.api.completion_schema import CompletionRequest
from mosso.api.completions import CompletionService
from mosso.api.responses import ResponsesService
from mosso.api.responses_schema import ResponsesRequest
from mosso.api.usage import Report, TokenCounts, Usage
from mosso.api.wire import parse_request

Answer = tuple[bytes, TokenCounts]
Endpoint = Callable[[bytes, Caller, Report], Awaitable[bytes]]


class Endpoints:
    """What a batch asks. Bodies are translated in threads, to keep the event loop free for those who wait."""

    def __init__(
        self, chat: ChatService, completions: CompletionService, responses: ResponsesService
    ) -> None:
        self._chat = chat
        self._completions = completions
        self._responses = responses
        self._by_path: dict[str, Endpoint] = {
            "/v1/chat/completions": self._answer_chat,
            "/v1/completions": self._answer_completion,
            "/v1/responses": self._answer_response,
        }

    async def answer(self, path: str, body: bytes, caller: Caller) -> Answer:
        """The answer's JSON and what it used; errors are those of the endpoint. Cancelling it aborts it."""
        used = TokenCounts()

        def report(usage: Usage) -> None:
            used.prompt = usage.prompt_tokens
            used.cached = usage.prompt_tokens_details.cached_tokens
            used.generated = usage.completion_tokens
            used.reasoning = usage.completion_tokens_details.reasoning_tokens

        return await self._by_path[path](body, caller, report), used

    async def _answer_chat(self, body: bytes, caller: Caller, report: Report) -> bytes:
        job = await asyncio.to_thread(lambda: self._chat.prepare(parse_request(ChatRequest, body), caller))
        return await self._chat.complete(job, report)

    async def _answer_completion(self, body: bytes, caller: Caller, report: Report) -> bytes:
        job = await asyncio.to_thread(
            lambda: self._completions.prepare(parse_request(CompletionRequest, body), caller)
        )
        return await self._completions.complete(job, report)

    async def _answer_response(self, body: bytes, caller: Caller, report: Report) -> bytes:
        request = await asyncio.to_thread(parse_request, ResponsesRequest, body)
        earlier = await self._responses.earlier(request, caller.scope)
        tools = await self._responses.gather(request, earlier)
        job = await asyncio.to_thread(self._responses.prepare, request, earlier, caller, tools)
        return await self._responses.complete(job, report)
