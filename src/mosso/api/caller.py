"""On whose behalf a request is served. The server makes it, from the API key; a client never does."""

from __future__ import annotations

from dataclasses import dataclass

from mosso.core.errors import RequestError


@dataclass(frozen=True, slots=True)
class Caller:
    """`scope`: whose the request is, and all that is kept of it: responses, thinking, cached prefixes, a fair
    share. Nothing of one scope is ever found from another. It holds no "/". Where nobody needs a key there is
    one caller, of scope "". `priority` is where its requests stand; lower is served first.
    """

    scope: str = ""
    priority: int = 0

    def salt(self, own: str) -> str:
        """The cache salt of a request for which the client gave `own`. No two pairs of scope and own share
        one."""
        return f"{self.scope}/{own}" if own else self.scope

    def rank(self, own: int) -> int:
        """The priority of a request for which the client gave `own`. One that was given its place, by a key
        or because it works in the background, may stand behind it, not before it: RequestError."""
        if own < 0 and (self.scope or self.priority):
            raise RequestError("priority: it cannot be below 0 here.", param="priority")
        return self.priority + own
