"""A case: one question about a server, and how its answer is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar, cast

from mosso.check.server import Server

T = TypeVar("T")


class Fault(Exception):  # noqa: N818 - it is the server's, not ours
    """What the server does wrong, in one sentence."""


class NotThere(Exception):  # noqa: N818
    """The server does not claim to do this, or the model did not come to it: one sentence of why."""


@dataclass(frozen=True, slots=True)
class Case:
    """`run` returns when the server does it right; it raises Fault or NotThere otherwise."""

    name: str  # GROUP.WHAT
    about: str
    run: Callable[[Server], Awaitable[None]]


def case(name: str, about: str) -> Callable[[Callable[[Server], Awaitable[None]]], Case]:
    return lambda run: Case(name, about, run)


def cases_of(module: ModuleType) -> tuple[Case, ...]:
    """The cases of a module, in the order in which they are written."""
    return tuple(value for value in vars(module).values() if isinstance(value, Case))


def expect(condition: object, sentence: str) -> None:
    """Fault unless `condition` holds; `sentence` says what is wrong then."""
    if not condition:
        raise Fault(sentence)


def dig(value: Any, path: str, kind: type[T] = object) -> T:  # type: ignore[assignment]
    """What lies at `path` ("choices.0.message") in JSON; Fault names the step that is missing or wrong.

    A float may be written as an integer; a boolean is no number.
    """
    walked = ""
    for step in path.split("."):
        walked = f"{walked}.{step}" if walked else step
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise Fault(f"{walked} is missing") from None
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (kind in (int, float) and isinstance(value, bool)):
        raise Fault(f"{path} is {shown(value)}, not {_NAMES.get(kind, kind.__name__)}")
    return cast(T, value)


_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def shown(value: object) -> str:
    """A value as a sentence quotes it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
