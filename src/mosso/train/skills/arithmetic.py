"""Integer sums, differences and products of up to three digits, with the working in the analysis."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from mosso.harmony.conversation import Effort
from mosso.train.skills.base import Example, Expected, answer, draw_setting, dress, user
from mosso.train.skills.words import FIRST_NAMES
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
        "{a} plus {b}", "Add up {a} and {b}.", "Total of {a} and {b}?",
    ),
    "-": (
        "{a} - {b}", "{a}-{b}", "{a} − {b}", "{a} - {b} =", "{a}-{b}=?", "What is {a} - {b}?",
        "What's {a} - {b}?", "What is {a} minus {b}?", "what's {a} minus {b}?", "Calculate {a} - {b}.",
        "Compute {a} - {b}.", "Subtract {b} from {a}.", "Take {b} away from {a}.", "How much is {a} minus {b}?",
        "What is the difference between {a} and {b}, that is {a} - {b}?", "Please calculate {a}-{b}.",
        "Give me {a} minus {b}.", "Work out {a} - {b}.", "What does {a} - {b} equal?",
        "What is {a} less {b}?", "{a} take away {b}", "Can you subtract {b} from {a}?", "{a} minus {b}",
    ),
    "*": (
        "{a} * {b}", "{a}*{b}", "{a} × {b}", "{a} x {b}", "{a}x{b}", "{a} * {b} =", "{a}*{b}=?",
        "What is {a} * {b}?", "What is {a} × {b}?", "What's {a} times {b}?", "What is {a} times {b}?",
        "what is {a} x {b}?", "Calculate {a} * {b}.", "Compute {a} × {b}.", "Multiply {a} by {b}.",
        "Multiply {a} and {b}.", "How much is {a} times {b}?", "What is the product of {a} and {b}?",
        "Please calculate {a}*{b}.", "Give me {a} times {b}.", "Work out {a} × {b}.",
        "What does {a} times {b} equal?", "What is {a} multiplied by {b}?",
        "{a} times {b}", "Can you multiply {a} by {b}?", "{a} by {b}?", "Find {a} × {b}.",
    ),
}  # fmt: skip

STORIES = {
    "+": (
        "I have {a} {x} and get {b} more. How many do I have now?", "{n} has {a} {x} and buys {b} more. How many {x} does {n} have?",
        "A bus carries {a} people and {b} more get on. How many are on it?", "There are {a} red and {b} blue {x}. How many {x} are there?",
        "A shop sold {a} {x} on Monday and {b} on Tuesday. How many in all?", "{n} has {a} {x} and {m} has {b}. How many do they have together?",
        "I paid {a} euros for the {x} and {b} for the rest. How much is that?", "{n} found {a} {x} and then {b} more. How many {x} is that in total?",
    ),
    "-": (
        "I have {a} euros and spend {b}. How much is left?", "A tank holds {a} litres and {b} are used. How many litres are left?",
        "There were {a} people and {b} left. How many stayed?", "A book has {a} pages and I have read {b}. How many are left?",
        "{n} has {a} {x} and gives {b} to {m}. How many {x} are left?", "{n} had {a} {x} and lost {b}. How many {x} does {n} have now?",
        "A shop had {a} {x} and sold {b}. How many {x} are left?", "There are {a} {x}. If I take {b}, how many remain?",
    ),
    "*": (
        "There are {a} boxes with {b} {x} each. How many {x} are there?", "A ticket costs {b} euros. How much do {a} tickets cost?",
        "{a} rows of {b} seats: how many seats are there?", "{n} buys {a} bags with {b} {x} in each. How many {x} does {n} have?",
        "Each of {a} children has {b} {x}. How many {x} is that?", "I work {a} hours for {b} euros an hour. How much do I earn?",
    ),
}  # fmt: skip
THINGS = "apples books coins eggs stickers pencils oranges cards marbles cookies balls stamps flowers chairs bottles".split()
TWICE = (
    "What is twice {a}?",
    "Double {a}.",
    "What is double {a}?",
    "What's {a} doubled?",
    "What is two times {a}?",
)
SQUARED = (
    "What is {a} squared?",
    "What is the square of {a}?",
    "Square {a}.",
    "{a} squared",
    "What's {a} squared?",
)
CHAINS = (
    "{e}",
    "{e} =",
    "{e}?",
    "What is {e}?",
    "What's {e}?",
    "Calculate {e}.",
    "Compute {e}.",
    "How much is {e}?",
    "Work out {e}.",
)

_JOINED = re.compile(r"\}[^ ,]\{")  # `{a}-{b}`: no place for words
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
    return f"{a} {SIGNS[operator]} {_operand(b)} = {evaluate(a, operator, b)}"


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
    yield _chain(rng) if rng.random() < 0.1 else _single(rng)


def problem(rng: random.Random) -> tuple[str, int, str, int]:
    """A question and its first operand, operator and second operand."""
    operator = rng.choices("+-*", weights=(3, 4, 6))[0]
    a, b = draw_operand(rng), draw_operand(rng)
    if operator == "*" and rng.random() < 0.06:
        b = rng.choice((2, a))
        text = rng.choice(TWICE if b == 2 else SQUARED).format(a=a)
    elif rng.random() < 0.2:
        a, b = (max(a, b), min(a, b)) if operator == "-" else (a, b)
        n, m = rng.sample(FIRST_NAMES, 2)
        text = rng.choice(STORIES[operator]).format(a=a, b=b, x=rng.choice(THINGS), n=n, m=m)
    elif rng.random() < 0.06:
        a = -a
        text = rng.choice(TEMPLATES[operator]).format(a=a, b=b)
    else:
        template = rng.choice(TEMPLATES[operator])
        spelled = a < 100 and b < 100 and rng.random() < 0.2 and not _JOINED.search(template)
        shown = (in_words(a), in_words(b)) if spelled else (a, b)
        text = template.format(a=shown[0], b=shown[1])
    return text, a, operator, b


def _single(rng: random.Random) -> Example:
    text, a, operator, b = problem(rng)
    setting = draw_setting(rng)
    return Example(
        NAME,
        setting.prompt(user(dress(rng, text))),
        answer(thinking(a, operator, b, setting.effort), equation(a, operator, b) + "."),
        Expected(last_number=str(evaluate(a, operator, b))),
        key_of(a, operator, b),
        detail=f"{operator} {max(len(str(abs(a))), len(str(abs(b))))} digits",
    )


def _chain(rng: random.Random) -> Example:
    """Two operators; products first, else from the left."""
    first, second = rng.choice(("++", "+-", "-+", "--", "*+", "*-", "+*", "-*"))
    numbers = [draw_operand(rng, most=2) for _ in range(3)]
    later = second == "*"  # the second step comes first
    left, right = numbers[1:] if later else numbers[:2]
    inner = evaluate(left, second if later else first, right)
    outer = (numbers[0], first, inner) if later else (inner, second, numbers[2])
    value = evaluate(*outer)
    steps = ((left, second if later else first, right), outer)
    parts = [str(numbers[0]), first, str(numbers[1]), second, str(numbers[2])]
    setting = draw_setting(rng)
    sign = rng.choice("**×x")
    written = rng.choice((" ", " ", "")).join(part.replace("*", sign) for part in parts)
    shown = " ".join(SIGNS.get(part, part) for part in parts)
    return Example(
        NAME,
        setting.prompt(user(dress(rng, rng.choice(CHAINS).format(e=written)))),
        answer(chain_thinking(steps, setting.effort), f"{shown} = {value}."),
        Expected(last_number=str(value)),
        f"arithmetic {' '.join(parts)}",
        detail="chain",
        parts=tuple(key_of(*step) for step in steps),
    )


def chain_thinking(steps: tuple[tuple[int, str, int], ...], effort: Effort) -> str:
    """The working of each step; the check, at high effort, is of the last."""
    lines = []
    for word, step in zip(("first", "then"), steps, strict=True):
        last = word == "then"
        work = thinking(*step, effort if last or effort is not Effort.HIGH else Effort.MEDIUM)
        lines.append(f"{word}: {work}")
    return "\n".join(lines)
