"""Arithmetic as a small model can learn it: every line is a local step whose inputs stand beside it.

All functions take integers and return (lines of working, result). Compact lines are the working itself;
wordier ones add names of columns and carries.
"""

from __future__ import annotations

PLACES = (
    "ones",
    "tens",
    "hundreds",
    "thousands",
    "ten thousands",
    "hundred thousands",
    "millions",
    "ten millions",
)


def _digits(number: int, width: int) -> list[int]:
    """From the ones up, padded with zeros."""
    return [int(digit) for digit in str(number).zfill(width)[::-1]]


def add(a: int, b: int, *, wordy: bool = False) -> str:
    """Column addition of two numbers that are not negative: `347+286: 7+6=13 4+8+1=13 3+2+1=6 -> 633`."""
    width = max(len(str(a)), len(str(b)))
    carry, steps = 0, []
    for place, (x, y) in enumerate(zip(_digits(a, width), _digits(b, width), strict=True)):
        total = x + y + carry
        step = f"{x}+{y}+1={total}" if carry else f"{x}+{y}={total}"
        carry = total // 10
        if wordy:
            step = f"{PLACES[place]}: {step}, write {total % 10}" + (", carry 1." if carry else ".")
        steps.append(step)
    separator = "\n" if wordy else " "
    return f"{a}+{b}:{separator}{separator.join(steps)}{separator}-> {a + b}"


def subtract(a: int, b: int, *, wordy: bool = False) -> str:
    """Column subtraction, a >= b >= 0. A borrowed ten stands before the digit: `13-7=6`; a debt is `-1`."""
    width = len(str(a))
    debt, steps = 0, []
    for place, (x, y) in enumerate(zip(_digits(a, width), _digits(b, width), strict=True)):
        top = x + 10 if x - y - debt < 0 else x
        rest = top - y - debt
        step = f"{top}-{y}-1={rest}" if debt else f"{top}-{y}={rest}"
        debt = int(top > x)
        if wordy:
            step = f"{PLACES[place]}: {step}, write {rest}" + (", borrow 1." if debt else ".")
        steps.append(step)
    separator = "\n" if wordy else " "
    return f"{a}-{b}:{separator}{separator.join(steps)}{separator}-> {a - b}"


def signed_sum(a: int, b: int, *, wordy: bool = False) -> str:
    """a + b of any signs, reduced to column work on magnitudes; ends in `-> result`."""
    if a >= 0 and b >= 0:
        return add(a, b, wordy=wordy)
    if a < 0 and b < 0:
        return f"both negative\n{add(-a, -b, wordy=wordy)}\nso -> {a + b}"
    big, small = max(abs(a), abs(b)), min(abs(a), abs(b))
    if a + b >= 0:
        return f"{big} is not less than {small}\n{subtract(big, small, wordy=wordy)}"
    return f"{small} is less than {big}, so negative\n{subtract(big, small, wordy=wordy)}\nso -> {a + b}"


def times_digit(a: int, digit: int, *, wordy: bool = False) -> str:
    """One partial product: `347*6: 7*6=42 4*6+4=28 3*6+2=20 -> 2082`; the carry is all but the last digit."""
    carry, steps = 0, []
    for x in _digits(a, len(str(a))):
        total = x * digit + carry
        step = f"{x}*{digit}+{carry}={total}" if carry else f"{x}*{digit}={total}"
        carry = total // 10
        if wordy:
            step += f", write {total % 10}, carry {carry}."
        steps.append(step)
    separator = "\n" if wordy else " "
    return f"{a}*{digit}:{separator}{separator.join(steps)}{separator}-> {a * digit}"


def multiply(a: int, b: int, *, wordy: bool = False) -> str:
    """Partial products by the digits of b, then their sums; a, b >= 0. The one with fewer digits multiplies."""
    lines = []
    if len(str(b)) > len(str(a)):
        a, b = b, a
        lines.append(f"swap: {a}*{b}")
    if b == 0 or a == 0:
        return "\n".join([*lines, f"{a}*{b}: times 0 -> 0"])
    parts = []
    for place, digit in enumerate(_digits(b, len(str(b)))):
        if digit == 0:
            continue
        line = times_digit(a, digit, wordy=wordy)
        if place:
            line += f", {PLACES[place]}: {a * digit * 10**place}"
        lines.append(line)
        parts.append(a * digit * 10**place)
    total = parts[0]
    for part in parts[1:]:
        lines.append(add(total, part, wordy=wordy))
        total += part
    lines.append(f"-> {total}")
    return "\n".join(lines)


def signed_product(a: int, b: int, *, wordy: bool = False) -> str:
    work = multiply(abs(a), abs(b), wordy=wordy)
    return f"{work}\nnegative, so -> {a * b}" if a * b < 0 else work


def digit_root(number: int) -> str:
    """`99242: 9+9+2+4+2=26 2+6=8`, down to one digit."""
    steps, value = [], abs(number)
    text = str(value)
    while value > 9:
        digits = str(value)
        value = sum(map(int, digits))
        steps.append("+".join(digits) + f"={value}")
    return f"{text}: {' '.join(steps) if steps else value}"


def root_of(number: int) -> int:
    return 0 if number == 0 else 1 + (abs(number) - 1) % 9


def nines_check(a: int, b: int, product: int) -> str:
    """Casting out nines: the digit roots of the factors multiply to the product's."""
    left = root_of(a) * root_of(b)
    return (
        f"check by digit sums:\n{digit_root(a)}\n{digit_root(b)}\n"
        f"{root_of(a)}*{root_of(b)}={left}, {digit_root(left)}\n{digit_root(product)}\n"
        f"{root_of(left)} and {root_of(product)}: equal."
    )
