"""Who a request comes from, as its routes see it: the gate writes it on the request once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from starlette.requests import HTTPConnection
from starlette.types import Scope

from mosso.api.caller import Caller
from mosso.server.allowances import Allowance

_CALLER, _ALLOWANCE = "mosso.caller", "mosso.allowance"
ANYBODY = Caller()


def admit(scope: Scope, caller: Caller, allowance: Allowance) -> None:
    """The request of `scope` is the caller's."""
    scope[_CALLER], scope[_ALLOWANCE] = caller, allowance


def caller_of(request: HTTPConnection) -> Caller:
    """Whom the request is served for: the key's owner, or the one caller of a server that needs no keys."""
    caller = request.scope.get(_CALLER, ANYBODY)
    assert isinstance(caller, Caller)
    return caller


def one_request(request: HTTPConnection) -> AbstractContextManager[None]:
    """The request in hand, counted against its caller's limits, if there are such; OverloadedError."""
    allowance = request.scope.get(_ALLOWANCE)
    return nullcontext() if allowance is None else allowance.request()
