"""Compiles constraints once, and hands out copies that advance."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from mosso.core.constraints import Grammar, GrammarKind, TokenConstraint, TurnConstraint
from mosso.core.errors import EngineError, RequestError
from mosso.grammar.turn import content_grammar, turn_grammar
from mosso.grammar.vocabulary import open_vocabulary

MAX_COMPILED = 256  # turns kept; a client sends the same schema and tools with every request
LIMITS = LLParserLimits(verbose_errors=False)  # the state of a parser tells a client nothing
MAX_MESSAGE = 300  # characters of the library's explanation that a client is shown


class HarmonyConstrainer:
    """Implements core's Constrainer for one checkpoint. The vocabulary is read with the first constraint."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._compiled: OrderedDict[TurnConstraint, LLMatcher] = OrderedDict()
        self._lock = Lock()  # of the vocabulary, of `_compiled`, and of the matchers in it

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        return open_vocabulary(self._folder, self._vocab_size)

    def prepare(self, constraint: TurnConstraint) -> None:
        with self._lock:
            self._compile(constraint)

    def begin(self, constraint: TurnConstraint, tokens: Sequence[int]) -> TokenConstraint:
        with self._lock:
            matcher = self._compile(constraint).deep_copy()
        turn = MatchedTurn(matcher)
        for token in tokens:
            turn.consume(token)
        return turn

    def _compile(self, constraint: TurnConstraint) -> LLMatcher:
        matcher = self._compiled.get(constraint)
        if matcher is None:
            honoured = honour(constraint, self._vocabulary)
            matcher = LLMatcher(self._vocabulary, turn_grammar(honoured), log_level=0, limits=LIMITS)
            if matcher.is_error():  # each part compiled: only together are they too much
                raise RequestError(f"The constraint cannot be honoured: {_short(matcher.get_error())}")
            self._compiled[constraint] = matcher
        self._compiled.move_to_end(constraint)
        while len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        return matcher


class MatchedTurn:
    """Implements core's TokenConstraint."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def mask(self) -> bytes | None:
        if self._over():
            return None
        mask = self._matcher.compute_bitmask()
        self._check()
        return mask

    def consume(self, token: int) -> None:
        if self._over():
            return
        self._matcher.consume_token(token)
        self._check()

    def _over(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineError(f"the constraint failed: {_short(self._matcher.get_error())}")


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
    raise RequestError(f"{where} cannot be honoured: {_short(complaint)}", param=grammar.param)


def _complaint(grammar: Grammar, vocabulary: LLTokenizer) -> str | None:
    if grammar.kind is GrammarKind.TEXT:
        return None
    matcher = LLMatcher(vocabulary, content_grammar(grammar), log_level=0, limits=LIMITS)
    if matcher.is_error():
        return matcher.get_error()
    matcher.compute_bitmask()  # only now is a schema seen that refers to itself and to nothing else
    return "It admits nothing." if matcher.is_error() else None


def _short(message: str) -> str:
    """One line: the library adds the parser's state, and a regex's place in several lines."""
    line = " ".join(message.split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"
