"""The door: whoever has no key is turned away before anything else is done for him.

Closed unless named: every path needs a key, also one that does not exist. Open are the probes, the files of
the playground (a browser shows no key for a page), and the metrics where they are left so.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mosso.api.caller import Caller
from mosso.core.errors import UnauthorizedError
from mosso.server import playground
from mosso.server.callers import admit
from mosso.server.keys import Key
from mosso.server.record import record_of
from mosso.server.tenants import Tenants

PROBES = frozenset({"/health", "/v1/health/live", "/v1/health/ready"})
METRICS = frozenset({"/metrics", "/v1/metrics"})
OPEN = PROBES | {"/"}
_FILES = playground.PREFIX + "/"


class KeyGate:
    """Plain ASGI. Requests that pass have a caller and an allowance; their answers say what is left of it."""

    def __init__(self, app: ASGIApp, tenants: Tenants, open_paths: frozenset[str]) -> None:
        self._app = app
        self._tenants = tenants
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        key = self._key(scope)
        allowance = self._tenants.allowance(key.name)
        admit(scope, Caller(key.name, key.priority), allowance)
        record_of(scope).caller = key.name

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *allowance.headers()]
            await send(message)

        await self._app(scope, receive, send_with_limits)

    def _is_open(self, path: str) -> bool:
        return path in self._open or path.startswith(_FILES)

    def _key(self, scope: Scope) -> Key:
        given = presented(scope)
        for secret in given:
            key = self._tenants.find(secret)
            if key is not None:
                return key
        if given:
            raise UnauthorizedError("Incorrect API key provided.", code="invalid_api_key")
        raise UnauthorizedError(
            "You didn't provide an API key. Send it as `Authorization: Bearer KEY`, or as `x-api-key: KEY`.",
            code="invalid_api_key",
        )


def presented(scope: Scope) -> list[bytes]:
    """The keys that a request shows: OpenAI's and Ollama's clients send a bearer's, Anthropic's the other."""
    headers = Headers(scope=scope)
    kind, _, bearer = headers.get("authorization", "").partition(" ")
    shown = [bearer if kind.lower() == "bearer" else "", headers.get("x-api-key", "")]
    return [secret.strip().encode("latin-1") for secret in shown if secret.strip()]
