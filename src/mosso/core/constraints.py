"""What a turn may say, as plain values that travel inside a Request, and the protocols that enforce it.

The values know nothing of token ids; the room `grammar` makes them into constraints over a vocabulary, and
the engine asks those for masks without knowing what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class GrammarKind(StrEnum):
    """What `Grammar.text` is."""

    TEXT = "text"  # nothing: any text
    JSON_OBJECT = "json_object"  # nothing: any JSON object
    JSON_SCHEMA = "json_schema"  # a JSON schema
    REGEX = "regex"  # a regular expression that the whole text matches
    LARK = "lark"  # a Lark grammar; its rule `start` is the whole text
    CHOICE = "choice"  # a JSON list of strings, one of which is the whole text


@dataclass(frozen=True, slots=True)
class Grammar:
    """The form of one message's content."""

    kind: GrammarKind
    text: str = ""
    param: str | None = None  # where the client wrote it, for errors
    strict: bool = True  # false: a schema that cannot be honoured becomes any JSON object, not an error


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the turn may make: its recipient (functions.NAME) and the form of its arguments."""

    recipient: str
    arguments: Grammar


@dataclass(frozen=True, slots=True)
class TurnConstraint:
    """An assistant's turn: thinking without any constraint, then the answer or one of the calls.

    `answer`: the form of the final message; None where the turn must end in a call.
    """

    answer: Grammar | None
    calls: tuple[Call, ...] = ()


class TokenConstraint(Protocol):
    """A constraint on its way through one turn. Used by one thread at a time."""

    def mask(self) -> bytes | None:
        """The tokens that may come next: bit i % 8 of byte i // 8 is token i. None: the turn is over.

        Raises EngineError when the constraint cannot go on: it met a limit of its library.
        """
        ...

    def consume(self, token: int) -> None:
        """Advance by a token of the last mask; what follows the turn's end is ignored. Raises EngineError."""
        ...


class Constrainer(Protocol):
    """Makes constraints for one vocabulary. Safe to use from several threads."""

    def prepare(self, constraint: TurnConstraint) -> None:
        """Compile it, so that `begin` is quick. RequestError names what cannot be honoured."""
        ...

    def begin(self, constraint: TurnConstraint, tokens: Sequence[int]) -> TokenConstraint:
        """A constraint that has consumed `tokens`, what the turn said so far; raises as prepare, consume."""
        ...
