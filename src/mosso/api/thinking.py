"""How much a turn may think: an effort, which the model is told, and a budget, which the engine holds.

gpt-oss knows three efforts. None of them is "none", so that one is the lowest effort and a budget of 0: the
turn begins with its answer or its call. A budget ends the thinking in a legal way, wherever it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from pydantic import Field

from mosso.api.wire import Off, WireModel
from mosso.core.errors import RequestError, UnsupportedError
from mosso.harmony.conversation import Effort

V = TypeVar("V", str, int)
EffortName = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
_EFFORTS = {
    "none": Effort.LOW,  # and a budget of 0
    "minimal": Effort.LOW,  # the least thinking that gpt-oss has
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "high": Effort.HIGH,
}


class ReasoningFields(WireModel):
    """OpenRouter's way to ask for all of it."""

    effort: EffortName | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    enabled: bool | None = None
    exclude: Off | None = None


class TemplateKwargs(WireModel):
    """What gpt-oss's own chat template takes, by its names; the field that vLLM has for them."""

    model_identity: str | None = None  # how Harmony's system message begins
    reasoning_effort: EffortName | None = None


def effort_named(name: str | None, default: Effort, *, param: str) -> Effort:
    """The effort that a client calls `name`; `param` is the client's name for the field."""
    if name is None:
        return default
    effort = _EFFORTS.get(name)
    if effort is None:
        raise UnsupportedError(
            f"{param}: gpt-oss knows low, medium and high (minimal means low), not {name!r}.", param=param
        )
    return effort


def same(given: Mapping[str, V | None]) -> V | None:
    """The value of fields that mean the same; RequestError where they say different things."""
    found = {name: value for name, value in given.items() if value is not None}
    if len(set(found.values())) > 1:
        first, second, *_ = found
        raise RequestError(f"{first} and {second} mean the same; give one of them.", param=second)
    return next(iter(found.values()), None)


def thinking_budget(
    given: Mapping[str, int | None], *, effort: str | None, enabled: bool = True
) -> int | None:
    """Tokens of thinking by the names that clients have for them; None: as many as the model likes."""
    budget = same(given)
    if effort != "none" and enabled:
        return budget
    if budget:
        name = next(name for name, value in given.items() if value)
        raise RequestError(f"{name}: thinking is switched off by another field.", param=name)
    return 0
