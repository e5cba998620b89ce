"""Compiles constraints once, and hands out copies that advance."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import cast

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from mosso.core.constraints import Grammar, GrammarKind, Mask, TokenConstraint, Turn, TurnConstraint
from mosso.core.errors import EngineError, RequestError
from mosso.grammar.thinking import Control, HarmonyTurn, TurnForm, in_short
from mosso.grammar.together import Together
from mosso.grammar.turn import after_thinking_grammar, content_grammar, turn_grammar
from mosso.grammar.vocabulary import open_vocabulary

MAX_COMPILED = 256  # turns kept; a client sends the same schema and tools with every request
LIMITS = LLParserLimits(verbose_errors=False)  # the state of a parser tells a client nothing
ONE_OF = (
    "oneOf is honoured only where no value can match two of its branches (by type, by a required constant); "
    "say anyOf where that does not matter."
)
"""Instead of the library's advice to switch on what would weaken the schema."""

NAMES = {
    "min/maxProperties": "minProperties/maxProperties",
    "patternProperty": "patternProperties",
    "regex parse error": "pattern: regex parse error",
}
"""What the library calls otherwise than the client's schema does."""

_Compilable = TurnConstraint | tuple[str, ...]  # a turn's form; or the recipients of one that has none


class HarmonyConstrainer:
    """Implements core's Constrainer for one checkpoint. The vocabulary is read with the first constraint.

    What compiles holds no lock (nor the interpreter's), so that others begin and go on meanwhile.
    """

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._reading = Lock()  # of the vocabulary
        self._compiled: OrderedDict[_Compilable, Future[LLMatcher]] = OrderedDict()
        self._lock = Lock()  # of `_compiled`, and of the matchers in it
        self._together = Together()

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        return open_vocabulary(self._folder, self._vocab_size)

    @cached_property
    def _control(self) -> Control:
        return Control(self._vocabulary)

    def prepare(self, turn: Turn) -> None:
        self._matchers(turn)

    def begin(self, turn: Turn, tokens: Sequence[int]) -> HarmonyTurn:
        form, after = self._matchers(turn)
        made = HarmonyTurn(
            self._control,
            turn.thinking_budget,
            None if form is None else TurnForm(form, self._control.mask_bytes),
            after,
        )
        for token in tokens:
            made.consume(token)
        return made

    def advance(
        self, constraints: Sequence[TokenConstraint], tokens: Sequence[int]
    ) -> list[Mask | EngineError | None]:
        return self._together.advance(cast("Sequence[HarmonyTurn]", constraints), tokens)  # `begin` made them

    def _matchers(self, turn: Turn) -> tuple[LLMatcher | None, LLMatcher]:
        """For one turn alone: its form, and what follows its thinking where it has none."""
        with self._reading:
            assert self._control is not None  # the vocabulary is here, and has Harmony's tokens
        form = None if turn.form is None else self._copy(turn.form)
        return form, self._copy(turn.recipients if form is None else ())

    def _copy(self, wanted: _Compilable) -> LLMatcher:
        """Whoever asks first compiles, others wait for it; what failed is not kept."""
        mine: Future[LLMatcher] = Future()
        with self._lock:
            found = self._compiled.setdefault(wanted, mine)
            self._compiled.move_to_end(wanted)
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        if found is mine:
            try:
                mine.set_result(self._compile(wanted))
            except BaseException as error:
                mine.set_exception(error)
                with self._lock:
                    self._compiled.pop(wanted, None)
        matcher = found.result()
        with self._lock:
            return matcher.deep_copy()

    def _compile(self, wanted: _Compilable) -> LLMatcher:
        matcher = LLMatcher(self._vocabulary, self._grammar(wanted), log_level=0, limits=LIMITS)
        if matcher.is_error():  # each part compiled: only together are they too much
            raise RequestError(f"The constraint cannot be honoured: {in_short(matcher.get_error())}")
        return matcher

    def _grammar(self, wanted: _Compilable) -> str:
        if isinstance(wanted, TurnConstraint):
            return turn_grammar(honour(wanted, self._vocabulary))
        return LLMatcher.grammar_from_lark(after_thinking_grammar(wanted))


def honour(constraint: TurnConstraint, vocabulary: LLTokenizer) -> TurnConstraint:
    """The constraint with what a lenient part could not have replaced; RequestError for a strict part.

    Each part is tried on its own, so that the error names where the client wrote it.
    """
    answer = None if constraint.answer is None else _honoured(constraint.answer, vocabulary)
    calls = [replace(call, arguments=_honoured(call.arguments, vocabulary)) for call in constraint.calls]
    return TurnConstraint(answer, tuple(calls))


def _honoured(grammar: Grammar, vocabulary: LLTokenizer) -> Grammar:
    complaint = _complaint(grammar, vocabulary)
    if complaint is None:
        return grammar
    if not grammar.strict:
        return Grammar(GrammarKind.JSON_OBJECT, param=grammar.param)
    where = grammar.param or grammar.kind
    raise RequestError(f"{where} cannot be honoured: {in_short(complaint)}", param=grammar.param)


def _complaint(grammar: Grammar, vocabulary: LLTokenizer) -> str | None:
    if grammar.kind is GrammarKind.TEXT:
        return None
    matcher = LLMatcher(vocabulary, content_grammar(grammar), log_level=0, limits=LIMITS)
    if matcher.is_error():
        complaint = matcher.get_error()
        return _by_schema_names(complaint) if grammar.kind is GrammarKind.JSON_SCHEMA else complaint
    matcher.compute_bitmask()  # only now is a schema seen that refers to itself and to nothing else
    return "It admits nothing." if matcher.is_error() else None


def _by_schema_names(complaint: str) -> str:
    if "coerce_one_of" in complaint:
        return ONE_OF
    for theirs, name in NAMES.items():
        complaint = complaint.replace(theirs, name)
    return complaint
