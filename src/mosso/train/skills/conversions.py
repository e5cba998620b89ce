"""Unit conversions by an exact or a customary factor, with the multiplication written out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from mosso.harmony.conversation import Effort
from mosso.train.skills.base import Example, Expected, answer, draw_setting, dress, user
from mosso.train.skills.working import add, multiply, subtract

NAME = "conversions"


@dataclass(frozen=True, slots=True)
class Unit:
    name: str  # plural, as answers say it
    spellings: tuple[str, ...]

    def after(self, number: str) -> str:
        """`1 foot`, `3 feet`, `1 km`."""
        return f"{number} {_SINGULAR.get(self.name, self.name) if number == '1' else self.name}"


@dataclass(frozen=True, slots=True)
class Conversion:
    """y = x · factor / 10**shift + offset; `about` where the factor is rounded."""

    source: Unit
    target: Unit
    factor: int
    shift: int = 0
    offset: int = 0
    about: bool = False
    fractions: bool = False  # x may have one decimal


def _unit(name: str, *spellings: str) -> Unit:
    return Unit(name, (name, *spellings))


KM, M, CM, MM = _unit("km", "kilometers"), _unit("m", "meters"), _unit("cm", "centimeters"), _unit("mm")
KG, G, MG = _unit("kg", "kilograms"), _unit("g", "grams"), _unit("mg", "milligrams")
L, ML = _unit("liters", "l"), _unit("ml", "milliliters")
WEEKS, DAYS, HOURS = _unit("weeks"), _unit("days"), _unit("hours", "h")
MINUTES, SECONDS, YEARS, MONTHS = (
    _unit("minutes", "min"),
    _unit("seconds", "s"),
    _unit("years"),
    _unit("months"),
)
FEET, INCHES, YARDS, MILES = _unit("feet", "ft"), _unit("inches"), _unit("yards"), _unit("miles")
POUNDS, OUNCES, DOZEN, PIECES = _unit("pounds", "lb"), _unit("ounces", "oz"), _unit("dozen"), _unit("pieces")
GALLONS, MB, KB = _unit("gallons"), _unit("MB", "megabytes"), _unit("kB", "kilobytes")
CELSIUS = _unit("degrees Celsius", "Celsius", "°C", "C")
FAHRENHEIT = _unit("degrees Fahrenheit", "Fahrenheit", "°F", "F")
EUROS, CENTS = _unit("euros"), _unit("cents")
TONS, BYTES, BITS = _unit("tons", "tonnes"), _unit("bytes"), _unit("bits")

_SINGULAR = {
    "liters": "liter", "weeks": "week", "days": "day", "hours": "hour", "minutes": "minute", "seconds": "second",
    "years": "year", "months": "month", "feet": "foot", "inches": "inch", "yards": "yard", "miles": "mile",
    "gallons": "gallon", "pounds": "pound", "ounces": "ounce", "pieces": "piece", "euros": "euro", "cents": "cent", "tons": "ton",
    "bytes": "byte", "bits": "bit", "degrees Celsius": "degree Celsius", "degrees Fahrenheit": "degree Fahrenheit",
}  # fmt: skip

TIMES = (
    Conversion(KM, M, 1000, fractions=True), Conversion(M, CM, 100, fractions=True),
    Conversion(CM, MM, 10, fractions=True), Conversion(M, MM, 1000, fractions=True),
    Conversion(KG, G, 1000, fractions=True), Conversion(G, MG, 1000, fractions=True),
    Conversion(L, ML, 1000, fractions=True), Conversion(TONS, KG, 1000, fractions=True),
    Conversion(EUROS, CENTS, 100, fractions=True),
    Conversion(WEEKS, DAYS, 7), Conversion(DAYS, HOURS, 24), Conversion(HOURS, MINUTES, 60),
    Conversion(MINUTES, SECONDS, 60), Conversion(YEARS, MONTHS, 12), Conversion(FEET, INCHES, 12),
    Conversion(YARDS, FEET, 3), Conversion(POUNDS, OUNCES, 16), Conversion(DOZEN, PIECES, 12),
    Conversion(BYTES, BITS, 8), Conversion(MB, KB, 1000, fractions=True), Conversion(KM, CM, 100_000, fractions=True),
    Conversion(HOURS, SECONDS, 3600), Conversion(DAYS, MINUTES, 1440), Conversion(WEEKS, HOURS, 168),
    Conversion(YEARS, DAYS, 365), Conversion(YEARS, WEEKS, 52), Conversion(YARDS, INCHES, 36),
)  # fmt: skip
TENTHS = (
    Conversion(M, KM, 1, 3), Conversion(CM, M, 1, 2), Conversion(MM, CM, 1, 1), Conversion(G, KG, 1, 3),
    Conversion(ML, L, 1, 3), Conversion(KG, TONS, 1, 3), Conversion(CENTS, EUROS, 1, 2),
)  # fmt: skip
CUSTOMARY = (
    Conversion(CELSIUS, FAHRENHEIT, 18, 1, 32), Conversion(MILES, KM, 16, 1, about=True),
    Conversion(KM, MILES, 62, 2, about=True), Conversion(KG, POUNDS, 22, 1, about=True),
    Conversion(INCHES, CM, 254, 2), Conversion(FEET, CM, 3048, 2), Conversion(FEET, M, 3048, 4),
    Conversion(POUNDS, KG, 45, 2, about=True), Conversion(M, FEET, 328, 2, about=True), Conversion(CM, INCHES, 39, 2, about=True),
    Conversion(GALLONS, L, 38, 1, about=True), Conversion(OUNCES, G, 28, about=True), Conversion(YARDS, M, 91, 2, about=True),
    Conversion(MILES, M, 1609, about=True),
)  # fmt: skip
DIVIDED = tuple(c for c in TIMES if c.factor in (3, 7, 8, 12, 16, 24, 60))  # asked backwards, exact only

TEMPLATES = (
    "Convert {x} {u} to {v}.", "Convert {x} {u} into {v}.", "What is {x} {u} in {v}?", "How many {v} are {x} {u}?",
    "How many {v} are in {x} {u}?", "{x} {u} in {v}", "{x} {u} to {v}", "{x} {u} in {v}?", "How much is {x} {u} in {v}?",
    "What's {x} {u} in {v}?", "Please convert {x} {u} to {v}.", "Can you convert {x} {u} to {v}?",
    "I have {x} {u}. How many {v} is that?", "Give me {x} {u} in {v}.", "Express {x} {u} in {v}.",
    "Change {x} {u} to {v}.", "how many {v} is {x} {u}?", "Turn {x} {u} into {v}.",
)  # fmt: skip


def move_point(text: str, places: int) -> list[str]:
    """Decimal notation times 10**places, one place a step; the last one without idle zeros."""
    negative, step = places < 0, []
    for _ in range(abs(places)):
        whole, _, part = text.partition(".")
        if negative:
            text = f"{whole[:-1] or '0'}.{whole[-1]}{part}"
        else:
            part = part or "0"
            text = f"{(whole + part[0]).lstrip('0') or '0'}" + (f".{part[1:]}" if part[1:] else "")
        step.append(text)
    tidy = text.rstrip("0").rstrip(".") if "." in text else text
    return step if not step or step[-1] == tidy else [*step, tidy]


def _scaled(conversion: Conversion, text: str, *, wordy: bool) -> tuple[list[str], str]:
    """Lines that compute x · factor / 10**shift + offset, and the result in decimal notation."""
    lines: list[str] = []
    value, shift = text, -conversion.shift
    factor = conversion.factor
    while factor % 10 == 0:
        factor, shift = factor // 10, shift + 1
    if factor != 1:
        lines.append(multiply(int(value), factor, wordy=wordy))
        value = str(int(value) * factor)
    if shift:
        moved = move_point(value, shift)
        side = "right" if shift > 0 else "left"
        name = f"point {abs(shift)} {side}: " if wordy else ""
        lines.append(name + " ".join([value, *moved]))
        value = moved[-1]
    if conversion.offset:
        whole, dot, part = value.partition(".")
        lines.append(add(int(whole), conversion.offset, wordy=wordy))
        value = f"{int(whole) + conversion.offset}{dot}{part}"
        lines.append(f"-> {value}")
    return lines, value


def convert(conversion: Conversion, text: str) -> str:
    return _scaled(conversion, text, wordy=False)[1]


def thinking(conversion: Conversion, text: str, effort: Effort) -> str:
    wordy = effort is not Effort.LOW
    fact = f"{conversion.source.after('1')} is {conversion.target.after(_factor_text(conversion))}"
    lines, value = _scaled(conversion, text, wordy=wordy)
    if conversion.offset:
        fact = "times 1.8, plus 32"
    if effort is Effort.HIGH:
        lines = [f"The user wants {conversion.source.after(text)} in {conversion.target.name}.", *lines]
        lines.append(f"So {conversion.source.after(text)} is {conversion.target.after(value)}.")
    return "\n".join([fact, *lines])


def _factor_text(conversion: Conversion) -> str:
    if not conversion.shift:
        return str(conversion.factor)
    digits = str(conversion.factor).zfill(conversion.shift + 1)
    return f"{digits[: -conversion.shift]}.{digits[-conversion.shift :]}"


def sentence(conversion: Conversion, text: str) -> str:
    about = "about " if conversion.about else ""
    return f"{conversion.source.after(text)} is {about}{conversion.target.after(convert(conversion, text))}."


def divide_thinking(conversion: Conversion, total: int, effort: Effort) -> str:
    """How often the factor fits: tens first, then ones."""
    factor, quotient = conversion.factor, total // conversion.factor
    tens, ones = quotient // 10 * 10, quotient % 10
    lines, left = [f"{conversion.source.after('1')} is {conversion.target.after(str(factor))}"], total
    for part in (tens, ones):
        if part:
            lines.append(f"{factor}*{part}={factor * part}")
            lines.append(subtract(left, factor * part, wordy=False))
            left -= factor * part
    lines.append(f"{tens}+{ones} -> {quotient}")
    if effort is not Effort.LOW:
        lines.insert(0, f"How often does {factor} fit into {total}? Tens first, then ones.")
    if effort is Effort.HIGH:
        lines.append(f"check:\n{multiply(quotient, factor)}\nit is {total}, as it must be.")
    return "\n".join(lines)


def draw_value(rng: random.Random, conversion: Conversion) -> str:
    if conversion.shift and conversion in TENTHS:
        return str(rng.randint(1, 9999))
    if conversion.fractions and rng.random() < 0.4:
        return f"{rng.randint(0, 99)}.{rng.randint(1, 9)}"
    most = 120 if conversion in CUSTOMARY else 999
    return str(rng.randint(1, rng.choice((20, 100, most))))


def key_of(text: str, source: Unit, target: Unit) -> str:
    return f"conversion {text} {source.name} {target.name}"


def draw(rng: random.Random) -> Iterator[Example]:
    roll = rng.random()
    setting = draw_setting(rng)
    if roll < 0.2:
        conversion = rng.choice(DIVIDED)
        quotient = rng.randint(1, rng.choice((9, 30, 99)))
        total = quotient * conversion.factor
        source, target, text, value = conversion.target, conversion.source, str(total), str(quotient)
        target_messages = answer(
            divide_thinking(conversion, total, setting.effort),
            f"{source.after(text)} is {target.after(value)}.",
        )
        kind = "divided"
    else:
        pool, kind = (
            (CUSTOMARY, "customary")
            if roll < 0.45
            else (TENTHS, "tenths")
            if roll < 0.6
            else (TIMES, "times")
        )
        conversion = rng.choice(pool)
        text = draw_value(rng, conversion)
        source, target, value = conversion.source, conversion.target, convert(conversion, text)
        target_messages = answer(thinking(conversion, text, setting.effort), sentence(conversion, text))
    words = rng.choice(TEMPLATES).format(
        x=text, u=rng.choice(source.spellings), v=rng.choice(target.spellings)
    )
    yield Example(
        NAME,
        setting.prompt(user(dress(rng, words))),
        target_messages,
        Expected(numbers=(text, value)),
        key_of(text, source, target),
        detail=kind,
    )
