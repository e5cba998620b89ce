"""A turn's constraint → one llguidance grammar over the whole Harmony stream, control tokens included.

The stream continues a prompt that ends in `<|start|>assistant`. One grammar spans it all: headers are legal
by construction, the form of a message holds from its first token to its last, and nothing has to guess where
to switch a constraint on. Thinking admits any text between its `<|message|>` and its `<|end|>`.

Where the model may not end as it likes there is one thought at most, as a model that wants another end would
go on to think for ever; and no preamble, which a client would get as a part of the formed answer.

What has a form of its own (a schema, a client's regex or Lark grammar) is a grammar beside the turn's,
referred to by name, so that no text of a client's is pasted into another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from mosso.core.constraints import Grammar, GrammarKind, TurnConstraint
from mosso.core.errors import RequestError
from mosso.grammar.thinking import in_short

WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"
"""Between JSON's tokens. Bounded, because a model that has nothing to say would write spaces for ever."""

_JSON = (GrammarKind.JSON_OBJECT, GrammarKind.JSON_SCHEMA)

MAX_EBNF = 32 << 10  # characters: the conversion is quadratic in the rules, and holds the interpreter's lock
_EBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_UNICODE_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\[uU]")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\\n])+/|//.*')  # in Lark: text, patterns, comments

_TURN = """
thought: <|channel|> "analysis" <|message|> TEXT <|end|> again
preamble: <|channel|> "commentary" <|message|> TEXT <|end|> again
again: <|start|> "assistant"
TEXT: /(.|\\n)*/
"""

_TYPE = """
type: " " <|constrain|> "json" | " json" |
"""
"""The content type may be missing; both places of the recipient are the model's own (see harmony.header)."""


def turn_grammar(constraint: TurnConstraint) -> str:
    """The grammar as llguidance's JSON. Raises RequestError for text that is not JSON where it must be."""
    parts: list[dict[str, Any]] = []
    endings = []
    if constraint.answer is not None:
        content = _content(constraint.answer, "answer", parts)
        kind = "type" if constraint.answer.kind in _JSON else ""
        endings.append(f'<|channel|> "final" {kind} <|message|> {content} <|return|>')
    for index, call in enumerate(constraint.calls):
        content = _content(call.arguments, f"call_{index}", parts)
        endings.append(f"{_call_header(call.recipient)} <|message|> {content} <|call|>")
    free = constraint.answer is not None and constraint.answer.kind is GrammarKind.TEXT
    before = "(thought | preamble)*" if free else "thought?"
    start = f"start: {before} ({' | '.join(f'end_{i}' for i in range(len(endings)))})\n"
    rules = "".join(f"end_{index}: {ending}\n" for index, ending in enumerate(endings))
    return json.dumps({"grammars": [{"name": "turn", "lark_grammar": start + rules + _TURN + _TYPE}, *parts]})


def after_thinking_grammar(recipients: Sequence[str]) -> str:
    """From a thought's `<|end|>` to the next message's content, as Lark: not another thought."""
    headers = ['<|channel|> "final"', '<|channel|> "commentary"', *map(_call_header, recipients)]
    return f'start: <|end|> <|start|> "assistant" ({" | ".join(headers)}) <|message|>\n{_TYPE}'


def _call_header(recipient: str) -> str:
    """The model calls its own tools (python, browser) while it thinks, too, and writes code to them."""
    to = json.dumps(f" to={recipient}")
    channel, kind = '"commentary"', "type"
    if not recipient.startswith("functions."):
        channel, kind = '("analysis" | "commentary")', '(" code" | type)'
    return f"(<|channel|> {channel} {to} {kind} | {to} <|channel|> {channel} {kind})"


def _content(grammar: Grammar, name: str, parts: list[dict[str, Any]]) -> str:
    """How the turn's grammar refers to the message's content; what it refers to is added to `parts`."""
    if grammar.kind is GrammarKind.TEXT:
        return "TEXT"
    parts.append({"name": name} | _part(grammar))
    return f"@{name}"


def content_grammar(grammar: Grammar) -> str:
    """The content's grammar alone, as llguidance's JSON."""
    alone = {"name": "alone", "lark_grammar": "start: @content <|end|>"}
    return json.dumps({"grammars": [alone, {"name": "content"} | _part(grammar)]})


def _part(grammar: Grammar) -> dict[str, Any]:
    """The content's own grammar, as one of llguidance's `grammars` without its name."""
    match grammar.kind:
        case GrammarKind.JSON_OBJECT:
            return _json_part({"type": "object"})
        case GrammarKind.JSON_SCHEMA:
            return _json_part(_schema(grammar))
        case GrammarKind.REGEX:
            return _sole(LLMatcher.grammar_from_regex(grammar.text))
        case GrammarKind.CHOICE:
            choices = " | ".join(json.dumps(choice) for choice in _read(grammar))
            return {"lark_grammar": f"start: CHOICE\nCHOICE: {choices}"}  # one lexeme, however many there are
        case _:
            return {"lark_grammar": _lark(grammar)}


def _json_part(schema: dict[str, Any]) -> dict[str, Any]:
    """The options replace any that the client's schema brings: a lenient one would be ignored in part."""
    options = {"whitespace_pattern": WHITESPACE, "lenient": False, "coerce_one_of": False}
    return {"json_schema": {**schema, "x-guidance": options}}


def _schema(grammar: Grammar) -> dict[str, Any]:
    schema = _read(grammar)
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise RequestError("The schema must be an object; false admits nothing.", param=grammar.param)
    return schema


def _lark(grammar: Grammar) -> str:
    """Refuses control tokens (`<|end|>`, `<[1-9]>`) and other grammars (`@turn`): the turn could leave the
    Harmony structure with them."""
    text = _lark_of_ebnf(grammar) if _EBNF_RULE.search(grammar.text) else grammar.text
    bare = _QUOTED.sub("", text)
    if any(mark in bare for mark in ("<|", "<[", "@")):
        raise RequestError("A grammar may not name control tokens or other grammars.", param=grammar.param)
    return text


def _lark_of_ebnf(grammar: Grammar) -> str:
    """By the library's own conversion, which raises whatever it likes."""
    if len(grammar.text) > MAX_EBNF:
        raise RequestError(f"An EBNF grammar has at most {MAX_EBNF} characters.", param=grammar.param)
    if _UNICODE_ESCAPE.search(grammar.text):  # the conversion cuts leading zeros: another character
        message = "Escapes such as \\u0041 are not honoured in EBNF: write the character itself."
        raise RequestError(message, param=grammar.param)
    try:
        return gbnf_to_lark(grammar.text)
    except Exception as error:
        message = f"The EBNF grammar cannot be read: {in_short(str(error))}"
        raise RequestError(message, param=grammar.param) from None


def _sole(grammar: str) -> dict[str, Any]:
    (part,) = json.loads(grammar)["grammars"]
    del part["name"]
    return dict(part)


def _read(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.text)
    except ValueError:
        raise RequestError(f"The {grammar.kind} is not JSON.", param=grammar.param) from None
