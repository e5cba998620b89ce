"""How much a request may generate."""

from __future__ import annotations

from mosso.core.errors import RequestError
from mosso.core.requests import EngineLimits


def room_for(prompt_tokens: int, asked: int | None, limits: EngineLimits, *, param: str) -> int:
    """Tokens that may be generated: what was asked for, at most what is left of the context.

    A prompt that leaves no room is the client's mistake; `param` names where the prompt came from.
    """
    left = limits.max_context - prompt_tokens
    if left < 1:
        raise RequestError(
            f"This model's maximum context length is {limits.max_context} tokens. However, your {param} "
            f"resulted in {prompt_tokens} tokens, which leaves no room for an answer. "
            f"Please reduce the length of the {param}.",
            param=param,
            code="context_length_exceeded",
        )
    return left if asked is None else min(asked, left)
