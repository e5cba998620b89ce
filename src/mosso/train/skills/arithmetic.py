"""Integer sums, differences and products of up to three digits, with the working in the analysis."""

from __future__ import annotations

import random
from collections.abc import Iterator

from mosso.harmony.conversation import Effort
from mosso.train.skills.base import Example, Expected, answer, draw_setting, dress, user
from mosso.train.skills.working import nines_check, signed_product, signed_sum

NAME = "arithmetic"
SIGNS = {"+": "+", "-": "−", "*": "×"}

TEMPLATES = {
    "+": (
        "{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a}+{b}=?", "What is {a} + {b}?", "What's {a} + {b}?",
        "what is {a} plus {b}?", "What is {a} plus {b}?", "Calculate {a} + {b}.", "Compute {a} + {b}.",
        "Add {a} and {b}.", "Add {b} to {a}.", "How much is {a} plus {b}?", "What is the sum of {a} and {b}?",
        "Can you add {a} and {b}?", "Please calculate {a}+{b}.", "What do I get if I add {a} and {b}?",
        "Give me {a} plus {b}.", "Work out {a} + {b}.", "What does {a} + {b} equal?", "Sum {a} and {b}.",
        "I have {a} apples and get {b} more. How many do I have now?",
        "A bus carries {a} people and {b} more get on. How many are on it?",
        "There are {a} red and {b} blue balls. How many balls are there?",
        "A shop sold {a} books on Monday and {b} on Tuesday. How many in all?",
    ),
    "-": (
        "{a} - {b}", "{a}-{b}", "{a} − {b}", "{a} - {b} =", "{a}-{b}=?", "What is {a} - {b}?",
        "What's {a} - {b}?", "What is {a} minus {b}?", "what's {a} minus {b}?", "Calculate {a} - {b}.",
        "Compute {a} - {b}.", "Subtract {b} from {a}.", "Take {b} away from {a}.", "How much is {a} minus {b}?",
        "What is the difference between {a} and {b}, that is {a} - {b}?", "Please calculate {a}-{b}.",
        "Give me {a} minus {b}.", "Work out {a} - {b}.", "What does {a} - {b} equal?",
        "What is {a} less {b}?", "I have {a} euros and spend {b}. How much is left?",
        "A tank holds {a} litres and {b} are used. How many litres are left?",
        "There were {a} people and {b} left. How many stayed?",
        "A book has {a} pages and I have read {b}. How many are left?",
    ),
    "*": (
        "{a} * {b}", "{a}*{b}", "{a} × {b}", "{a} x {b}", "{a}x{b}", "{a} * {b} =", "{a}*{b}=?",
        "What is {a} * {b}?", "What is {a} × {b}?", "What's {a} times {b}?", "What is {a} times {b}?",
        "what is {a} x {b}?", "Calculate {a} * {b}.", "Compute {a} × {b}.", "Multiply {a} by {b}.",
        "Multiply {a} and {b}.", "How much is {a} times {b}?", "What is the product of {a} and {b}?",
        "Please calculate {a}*{b}.", "Give me {a} times {b}.", "Work out {a} × {b}.",
        "What does {a} times {b} equal?", "What is {a} multiplied by {b}?",
        "There are {a} boxes with {b} eggs each. How many eggs are there?",
        "A ticket costs {b} euros. How much do {a} tickets cost?",
        "{a} rows of {b} seats: how many seats are there?",
    ),
}  # fmt: skip

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """0 to 99."""
    if number < 20:
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")


def evaluate(a: int, operator: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def equation(a: int, operator: str, b: int) -> str:
    """The final answer's sentence."""
    return f"{shown(a)} {SIGNS[operator]} {_operand(b)} = {shown(evaluate(a, operator, b))}"


def shown(number: int) -> str:
    return str(number)


def _operand(number: int) -> str:
    return f"({number})" if number < 0 else str(number)


def thinking(a: int, operator: str, b: int, effort: Effort) -> str:
    """Working of a op b. Low: compact columns. Medium: columns in words. High: those and a check."""
    wordy = effort is not Effort.LOW
    head = f"{a}{operator}{_operand(b)}"
    if operator == "*":
        lines = [head, signed_product(a, b, wordy=wordy)]
    else:
        lines = [head, signed_sum(a, b if operator == "+" else -b, wordy=wordy)]
    if wordy:
        lines.insert(0, "The user wants a product." if operator == "*" else "Work by columns.")
    if effort is Effort.HIGH:
        lines.append(check(a, operator, b))
    return "\n".join(lines)


def check(a: int, operator: str, b: int) -> str:
    result = evaluate(a, operator, b)
    if operator == "*":
        return nines_check(a, b, result)
    addend = b if operator == "+" else -b
    return f"check: {result}{-addend:+}\n{signed_sum(result, -addend)}\nit is {a}, as it must be."


def key_of(a: int, operator: str, b: int) -> str:
    """Sums and products are the same problem in either order."""
    first, second = (a, b) if operator == "-" or a <= b else (b, a)
    return f"arithmetic {first} {operator} {second}"


def draw_operand(rng: random.Random, *, most: int = 3) -> int:
    digits = rng.choices((1, 2, 3), weights=(1, 2, 4))[0]
    digits = min(digits, most)
    low = 0 if digits == 1 else 10 ** (digits - 1)
    return rng.randint(low, 10**digits - 1)


def draw(rng: random.Random) -> Iterator[Example]:
    operator = rng.choices("+-*", weights=(3, 4, 6))[0]
    a, b = draw_operand(rng), draw_operand(rng)
    if rng.random() < 0.05:
        a = -a
    setting = draw_setting(rng)
    text = rng.choice(TEMPLATES[operator])
    slots = {"a": str(a), "b": str(b)}
    if 0 <= a < 100 and b < 100 and rng.random() < 0.15:
        slots = {"a": in_words(a), "b": in_words(b)}
    words = dress(rng, text.format(**slots))
    yield Example(
        NAME,
        setting.prompt(user(words)),
        answer(thinking(a, operator, b, setting.effort), equation(a, operator, b) + "."),
        Expected(last_number=str(evaluate(a, operator, b))),
        key_of(a, operator, b),
        f"{operator} {max(len(str(abs(a))), len(str(abs(b))))} digits",
    )
