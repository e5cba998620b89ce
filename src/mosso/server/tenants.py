"""Those who have a key: who they are, what each may still use, and a TokenSource that takes it from them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from mosso.api.generation import closing
from mosso.core.errors import MossoError, UnauthorizedError
from mosso.core.requests import EngineLimits, EngineStats, Request, TokenEvent
from mosso.core.source import TokenSource
from mosso.server.allowances import Allowance, Limits
from mosso.server.keys import Key, Keys
from mosso.server.usage_store import UsageStore

EXPECTED_ANSWER = 1024  # tokens that an answer is taken to have until its end, where more are allowed


class Tenants:
    """All of one server's. `usage` stays the caller's. Used by one thread."""

    def __init__(self, keys: Keys, usage: UsageStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._usage = usage
        self._clock = clock
        self._allowances: dict[str, tuple[Limits, Allowance]] = {}

    def find(self, secret: bytes) -> Key | None:
        """Whose secret it is, if anybody's."""
        return self._keys.ring.find(secret)

    def allowance(self, name: str) -> Allowance:
        """The owner's of that name, with the limits of now. UnauthorizedError where the owner has no key any
        more; what was begun before anybody needed one (its name is "") may go on."""
        key = self._keys.ring.named(name)
        if key is None and name:
            raise UnauthorizedError(f"{name!r} has no API key any more.", code="invalid_api_key")
        limits = Limits() if key is None else key.limits
        if name not in self._allowances:
            used, on_used = self._usage.totals.get(name, 0), partial(self._usage.put, name)
            made = Allowance(name, limits, self._clock, used=used, on_used=on_used)
            self._allowances[name] = limits, made
        before, allowance = self._allowances[name]
        if limits != before:
            allowance.limit(limits)
            self._allowances[name] = limits, allowance
        return allowance


class MeteredSource:
    """Takes what each request uses from its tenant's allowance; otherwise the source it stands before.

    Whatever asks the engine on a tenant's behalf comes through here: streams that are hung up, responses in
    the background, batches. Counted are the tokens that `usage` counts: the prompt (once for all choices),
    cached or not, and what was generated.
    """

    def __init__(self, source: TokenSource, tenants: Tenants) -> None:
        self._source = source
        self._tenants = tenants

    @property
    def limits(self) -> EngineLimits:
        return self._source.limits

    async def stream(self, request: Request) -> AsyncIterator[TokenEvent]:
        """Raises OverloadedError or QuotaError also where the tenant has no tokens left, UnauthorizedError
        where its key was taken back. A stream that has begun goes on."""
        prompt = 0 if request.choice else len(request.prompt)
        estimate = prompt + min(request.sampling.max_tokens, EXPECTED_ANSWER)
        with self._tenants.allowance(request.tenant).tokens(prompt, estimate) as meter:
            meter.used = prompt  # from here on the engine may work on it, also when the client hangs up
            told = False
            try:
                async with closing(self._source.stream(request)) as events:
                    async for event in events:
                        told = True
                        meter.used += len(event.tokens)
                        yield event
            except MossoError:
                meter.used = meter.used if told else 0  # refused: nothing was made
                raise

    async def abort(self, request_id: str) -> None:
        await self._source.abort(request_id)

    async def end_thinking(self, request_id: str) -> None:
        await self._source.end_thinking(request_id)

    async def stats(self) -> EngineStats:
        return await self._source.stats()

    async def close(self) -> None:
        await self._source.close()
