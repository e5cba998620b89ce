"""What a turn may say, as plain values that travel inside a Request, and the protocols that enforce it.

The values know nothing of token ids; the room `grammar` makes them into constraints over a vocabulary, and
the engine asks those for masks without knowing what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from mosso.core.errors import EngineError

Mask = bytes | memoryview
"""Of tokens: bit i % 8 of byte i // 8 is token i."""


class GrammarKind(StrEnum):
    """What `Grammar.text` is."""

    TEXT = "text"  # nothing: any text
    JSON_OBJECT = "json_object"  # nothing: any JSON object
    JSON_SCHEMA = "json_schema"  # a JSON schema
    REGEX = "regex"  # a regular expression that the whole text matches
    LARK = "lark"  # a Lark grammar; its rule `start` is the whole text. Or EBNF (GBNF), whose rule is `root`
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
    """The form of an assistant's turn: free thinking, then the answer or one of the calls.

    `answer`: the form of the final message; None where the turn must end in a call.
    """

    answer: Grammar | None
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """All that is asked of one turn's tokens.

    `thinking_budget`: tokens of thinking after which the turn must go on to its end; None: as many as the
    model likes. 0 means no thinking, and that thinking under way ends at once. `recipients`: whom the turn
    may call; it matters where there is no `form`, and thinking is ended.
    """

    form: TurnConstraint | None = None
    recipients: tuple[str, ...] = ()
    thinking_budget: int | None = None

    @property
    def is_free(self) -> bool:
        return self.form is None and self.thinking_budget is None


class TokenConstraint(Protocol):
    """A constraint on its way through one turn. Used by one thread at a time."""

    def mask(self) -> Mask | None:
        """The tokens that may come next. None: any token.

        Raises EngineError when the constraint cannot go on: it met a limit of its library.
        """
        ...

    def slack(self) -> int:
        """Tokens that may be drawn, whatever they are, before a mask can be needed; 0: the next needs one."""
        ...

    def consume(self, token: int) -> None:
        """Advance by a token of the last mask; what follows the turn's end is ignored. Raises EngineError."""
        ...

    def end_thinking(self) -> None:
        """From the next token on as if the thinking budget were 0."""
        ...


class Constrainer(Protocol):
    """Makes constraints for one vocabulary. Safe to use from several threads."""

    def prepare(self, turn: Turn) -> None:
        """Compile it, so that `begin` is quick. RequestError names what cannot be honoured."""
        ...

    def begin(self, turn: Turn, tokens: Sequence[int]) -> TokenConstraint:
        """A constraint that has consumed `tokens`, what the turn said so far; raises as prepare, consume.

        The budget is held from the next token on: `tokens` may have thought more.
        """
        ...

    def advance(
        self, constraints: Sequence[TokenConstraint], tokens: Sequence[int]
    ) -> list[Mask | EngineError | None]:
        """Each of these constraints consumes its token: its next mask, or the error it cannot go on for.

        One call for many rows is cheaper than one each. Used by one thread at a time.
        """
        ...
