"""What tools give back, and the one rule by which any result becomes an answer."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping

from mosso.core.json import JsonValue
from mosso.train.skills.tool_functions import Function, spoken
from mosso.train.skills.tool_words import KINDS, Value, listed
from mosso.train.skills.words import nonce

_FIELDS = tuple(
    """status id name price total amount count city date time temperature humidity condition message owner
    value result rate score level color size weight distance duration speed code reference email phone title
    author year unit category priority created_at updated_at expires_on start_time end_time is_open available
    in_stock active quantity balance currency location address room floor version language country state tax
    discount order_id user_id ticketNumber deliveryDate firstName lastSeen isValid nextStep""".split()
)
_SCALARS = ("word", "phrase", "code", "number", "price", "temperature", "name", "city", "date", "time", "status", "boolean", "count", "title", "minutes", "email", "big", "amount")  # fmt: skip
_LISTS = ("word", "title", "code", "name", "city", "file", "phrase")
_PLAIN = (
    "The {word} is {status}.", "Your {word} is {status}", "Done, the number is {code}.", "It will take {minutes}.",
    "Sent to {name} on {date}", "There are {count} left.", "The {word} costs {price}", "The {word} in {city} is {sky}",
    "{city} has {big} people.", "Booked for {date} at {time}.", "The answer is {number}", "Ask {name} about it.",
)  # fmt: skip
_ERRORS = (
    "City not found", "not found", "Unknown location", "timeout", "Service unavailable", "Invalid id", "invalid date",
    "No such file", "permission denied", "Rate limit exceeded", "Internal server error", "division by zero",
    "Network error", "connection refused", "{code} does not exist", "No {word} found", "unknown {word}", "Missing {word}",
    "{name} is not allowed", "the {word} is {status}", "Error {number}", "invalid {word} {code}",
)  # fmt: skip
_MARK = re.compile(r"<([@!]?)(\w*)>")
_BRACED = re.compile(r"\{(\w+)\}")


def draw_result(rng: random.Random, function: Function, values: Mapping[str, Value]) -> str:
    """A result of this call, as the text of the tool's message."""
    spec = rng.choice(function.results)
    if spec == "<any>" or ("<!>" not in spec and rng.random() < 0.2):
        return _any_result(rng)
    if spec[0] == "{":
        names = dict(part.split("=", 1) for part in spec[1:-1].split(" "))
        fields = {name: _field(rng, text, function, values) for name, text in names.items()}
        fields = {name: value for name, value in fields.items() if value is not None}
        return _dumped(rng, fields) if fields else _any_result(rng)
    if spec[0] == "[":
        return _dumped(rng, _some(rng, spec[1:-1]))
    if spec == "<!>":
        return str(computed(function.name, values))
    return _MARK.sub(lambda mark: _shown(_marked(rng, mark, function, values)), spec)


def _field(rng: random.Random, text: str, function: Function, values: Mapping[str, Value]) -> JsonValue:
    if text[0] == "[":
        return _some(rng, text[1:-1])
    mark = _MARK.fullmatch(text)
    return text if mark is None else _marked(rng, mark, function, values)


def _marked(
    rng: random.Random, mark: re.Match[str], function: Function, values: Mapping[str, Value]
) -> JsonValue:
    sign, name = mark.groups()
    if sign == "!":
        return computed(function.name, values)
    if sign == "@":
        return values[name].json if name in values else None
    return KINDS[name](rng).json


def _some(rng: random.Random, kind: str) -> list[JsonValue]:
    number = rng.choices((0, 1, 2, 3, 4), (1, 3, 5, 6, 3))[0]
    return [KINDS[kind](rng).json for _ in range(number)]


def _any_result(rng: random.Random) -> str:
    """A result that has nothing to do with the call: only copying helps."""
    roll = rng.random()
    if roll < 0.6:
        number = rng.choices((1, 2, 3, 4), (4, 5, 3, 1))[0]
        names = [rng.choice(_FIELDS) if rng.random() < 0.8 else nonce(rng) for _ in range(number)]
        return _dumped(rng, {name: KINDS[rng.choice(_SCALARS)](rng).json for name in names})
    if roll < 0.75:
        return _shown(KINDS[rng.choice(_SCALARS)](rng).json)
    if roll < 0.9:
        return _filled(rng, rng.choice(_PLAIN))
    items = _some(rng, rng.choice(_LISTS))
    return _dumped(rng, items if rng.random() < 0.6 else {rng.choice(("items", "results", "names")): items})


def draw_error(rng: random.Random) -> str:
    message = _filled(rng, rng.choice(_ERRORS)) + ("." if rng.random() < 0.15 else "")
    return f"Error: {message}" if rng.random() < 0.2 else _dumped(rng, {"error": message})


def _filled(rng: random.Random, template: str) -> str:
    return _BRACED.sub(lambda slot: _shown(KINDS[slot[1]](rng).json), template)


def _dumped(rng: random.Random, value: JsonValue) -> str:
    compact = rng.random() < 0.3
    return json.dumps(value, ensure_ascii=False, separators=(",", ":") if compact else None)


def computed(name: str, values: Mapping[str, Value]) -> int | float:
    """What a calculator says, rounded to two decimals."""
    if "expression" in values:
        result = _evaluated(str(values["expression"].json))
    else:
        a, b = (float(str(values[key].json)) for key in ("a", "b"))
        result = a / b if name == "divide" else {"add": a + b, "subtract": a - b, "multiply": a * b}[name]
    result = round(result, 2)
    return int(result) if result == int(result) else result


def _evaluated(expression: str) -> float:
    """`2 + 3 * 4`: products and quotients first."""
    tokens = expression.split(" ")
    terms, sign = [float(tokens[0])], 1.0
    for operator, text in zip(tokens[1::2], tokens[2::2], strict=True):
        number = float(text)
        if operator == "*":
            terms[-1] *= number
        elif operator == "/":
            terms[-1] /= number
        else:
            sign = 1.0 if operator == "+" else -1.0
            terms.append(sign * number)
    return sum(terms)


def _loaded(result: str) -> JsonValue:
    """A result's JSON with numbers as their own digits; a text that is no JSON is itself."""
    try:
        value: JsonValue = json.loads(result, parse_float=str, parse_int=str)
    except ValueError:
        return result
    return value


def _shown(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, list):
        return listed([_shown(item) for item in value]) if value else "none"
    return str(value)


def error_of(result: str) -> str | None:
    """The message of a result that is an error."""
    value = _loaded(result)
    if isinstance(value, dict) and value.keys() == {"error"}:
        return _shown(value["error"]).removesuffix(".")
    if isinstance(value, str) and value.startswith("Error: "):
        return value.removeprefix("Error: ").removesuffix(".")
    return None


def statement(result: str) -> str:
    """The answer that a result gives, without a capital so that a label can stand before it.

    A text that starts with a capital and has several words is a sentence and is kept as it is.
    """
    message = error_of(result)
    if message is not None:
        return f"the tool failed: {message}."
    value = _loaded(result)
    if value in ({}, [], ""):
        return "there are no results."
    if isinstance(value, dict):
        return listed([_field_statement(name, item) for name, item in value.items()]) + "."
    if isinstance(value, list):
        return f"the result{'s are' if len(value) > 1 else ' is'} {_shown(value)}."
    text = _shown(value)
    if text[:1].isupper() and " " in text:
        return text if text[-1] in ".!?" else f"{text}."
    return f"the result is {text}{'' if text[-1:] in '.!?' else '.'}"


def _field_statement(name: str, value: JsonValue) -> str:
    return f"the {spoken(name)} {'are' if isinstance(value, list) else 'is'} {_shown(value)}"


def answer_from(result: str) -> str:
    """The final answer from one result."""
    text = statement(result)
    return text[0].upper() + text[1:]


def scalars(result: str) -> tuple[str, ...]:
    """What of a result must stand in the answer, as it stands there."""
    message = error_of(result)
    if message is not None:
        return ("failed", message)
    value = _loaded(result)
    if value in ({}, [], ""):
        return ("no results",)
    items = list(value.values()) if isinstance(value, dict) else [value]
    return tuple(
        _shown(part) for item in items for part in (item if isinstance(item, list) and item else [item])
    )


def restated(result: str) -> str:
    """A result's fields one by one, as thinking at high effort goes through them."""
    value = _loaded(result)
    if isinstance(value, dict):
        return ", ".join(f"{spoken(name)}: {_shown(item)}" for name, item in value.items())
    return _shown(value)


def label(value: JsonValue) -> str:
    """An argument as the label of its call's result."""
    return _shown(value)
