"""Who a request comes from, as its routes see it: who lets it in writes it on the request once."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from mosso.api.caller import Caller

KEY = "mosso.caller"
ANYBODY = Caller()


def caller_of(request: HTTPConnection) -> Caller:
    """Whom the request is served for: the key's owner, or the one caller of a server that needs no keys."""
    caller = request.scope.get(KEY, ANYBODY)
    assert isinstance(caller, Caller)
    return caller
