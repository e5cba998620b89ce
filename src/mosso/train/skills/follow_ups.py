"""Second and third turns that refer to the last result: now double it, and in reverse, add 5 to that."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from mosso.harmony.conversation import Effort
from mosso.train.skills import arithmetic, conversions, lists
from mosso.train.skills.base import Example, Expected, Setting, answer, draw_setting, dress, final, user

NAME = "follow_ups"

# (operator, templates); the slot is the new operand
CHANGES = {
    "+": ("Add {b} to that.", "Now add {b}.", "Plus {b}?", "and plus {b}", "Add {b}.", "Now add {b} to it.", "What is that plus {b}?", "And if I add {b}?", "+ {b}"),
    "-": ("Subtract {b} from that.", "Now subtract {b}.", "Minus {b}?", "and minus {b}", "Take away {b}.", "What is that minus {b}?", "Now take {b} off.", "- {b}"),
    "*": ("Multiply that by {b}.", "Now multiply it by {b}.", "Times {b}?", "and times {b}", "What is that times {b}?", "* {b}", "Now times {b}."),
}  # fmt: skip
NAMED = {
    2: ("Now double it.", "Double that.", "now double it", "And twice that?", "Double it.", "What is twice that?", "Can you double it?"),
    3: ("Now triple it.", "Triple that.", "And three times that?", "Triple it."),
}  # fmt: skip
AGAIN = ("What about {q}?", "And {q}?", "and {q}", "Now {q}.", "How about {q}?", "{q}?")
REVERSE = ("And in reverse?", "and in reverse", "Now in reverse.", "Reverse it.", "Now the other way round.", "And in descending order?", "Now from largest to smallest.")  # fmt: skip
HOW_MANY = ("How many are there?", "How many numbers is that?", "Count them.", "And how many are they?")
EXTREMES = {
    "largest": ("Which is the largest?", "And the largest?", "What is the biggest of them?", "The maximum?"),
    "smallest": ("Which is the smallest?", "And the smallest?", "What is the least of them?", "The minimum?"),
}  # fmt: skip
ADD_ONE = ("Now add {x} to the list.", "Add {x} and sort again.", "And with {x} too?", "Put {x} in as well.")


def after(setting: Setting, question: str, reply: str) -> Setting:
    """The setting with one more finished exchange; its thinking is gone, as the renderer leaves it."""
    return replace(setting, turns=(*setting.turns, user(question), final(reply)))


def draw(rng: random.Random) -> Iterator[Example]:
    kind = rng.choices((_arithmetic, _list, _conversion), (6, 3, 2))[0]
    yield kind(rng)


def _arithmetic(rng: random.Random) -> Example:
    """One to two changes of a running result; the target answers the last."""
    operator = rng.choice("+-*")
    a, b = arithmetic.draw_operand(rng), arithmetic.draw_operand(rng, most=2 if operator == "*" else 3)
    setting = draw_setting(rng)
    question = dress(rng, rng.choice(arithmetic.TEMPLATES[operator]).format(a=a, b=b))
    setting = after(setting, question, arithmetic.equation(a, operator, b) + ".")
    value = arithmetic.evaluate(a, operator, b)
    key, parts = f"follow {a}{operator}{b}", [arithmetic.key_of(a, operator, b)]
    for last in (False, True) if rng.random() < 0.25 else (True,):
        if rng.random() < 0.2:  # a new problem by the same operator
            operator = rng.choice("+-*")
            left, right = arithmetic.draw_operand(rng), arithmetic.draw_operand(rng, most=2)
            sign = {"+": "+", "-": "-", "*": rng.choice("*×x")}[operator]
            text = rng.choice(AGAIN).format(q=f"{left} {sign} {right}")
        else:
            left = value
            if rng.random() < 0.35:
                operator, right = "*", rng.choice((2, 2, 2, 3))
                text = rng.choice(NAMED[right])
            else:
                operator = rng.choice("++--*")
                right = rng.randint(2, 9) if operator == "*" else arithmetic.draw_operand(rng)
                text = rng.choice(CHANGES[operator]).format(b=right)
        key += f" {left}{operator}{right}"
        parts.append(arithmetic.key_of(left, operator, right))
        value = arithmetic.evaluate(left, operator, right)
        reply = arithmetic.equation(left, operator, right) + "."
        if not last:
            setting = after(setting, dress(rng, text), reply)
    return Example(
        NAME,
        setting.prompt(user(dress(rng, text))),
        answer(arithmetic.thinking(left, operator, right, setting.effort), reply),
        Expected(last_number=str(value)),
        key,
        detail="arithmetic",
        parts=tuple(parts),
    )


def _list(rng: random.Random) -> Example:
    items = lists.draw_numbers(rng, 2, 6)
    ordered = sorted(items, key=int)
    question = dress(rng, rng.choice(lists.ASCENDING).format(l=lists.spoken(rng, items)))
    setting = after(draw_setting(rng), question, lists.joined(ordered))
    effort = setting.effort
    action = rng.choice(("reverse", "reverse", "count", "largest", "smallest", "add"))
    if action == "reverse":
        text, turned = rng.choice(REVERSE), ordered[::-1]
        thought = reverse_thinking(ordered, effort)
        reply, expected = lists.joined(turned), Expected(numbers=tuple(turned))
    elif action == "count":
        text, thought = rng.choice(HOW_MANY), lists.count_thinking(ordered, effort)
        reply = f"There are {len(ordered)} items."
        expected = Expected(last_number=str(len(ordered)))
    elif action == "add":
        extra = str(rng.randint(0, 999))
        while extra in items:
            extra = str(rng.randint(0, 999))
        longer = sorted([*ordered, extra], key=int)
        text = rng.choice(ADD_ONE).format(x=extra)
        thought = lists.sort_thinking([*ordered, extra], longer, effort, "smallest")
        reply, expected = lists.joined(longer), Expected(numbers=tuple(longer))
    else:
        best = ordered[-1] if action == "largest" else ordered[0]
        text = rng.choice(EXTREMES[action])
        thought = lists.extreme_thinking(ordered, action == "largest", effort)
        reply, expected = f"The {action} is {best}.", Expected(last_number=best)
    return Example(
        NAME,
        setting.prompt(user(dress(rng, text))),
        answer(thought, reply),
        expected,
        f"follow list {action} {lists.joined(items)}",
        detail="lists",
        parts=(lists.sort_key(items, down=False),),
    )


def reverse_thinking(ordered: list[str], effort: Effort) -> str:
    turned = lists.joined(ordered[::-1])
    if effort is Effort.LOW:
        return ""
    if effort is Effort.MEDIUM:
        return f"Read {lists.joined(ordered)} from the end."
    lines = ["Read the list from the end.", lists.indexed(ordered), "backwards: " + turned]
    return "\n".join([*lines, f"{len(ordered)} before, {len(ordered)} now."])


def _conversion(rng: random.Random) -> Example:
    """The same conversion of another amount: `and 12 km?`"""
    conversion = rng.choice(conversions.TIMES + conversions.CUSTOMARY)
    first, second = conversions.draw_value(rng, conversion), conversions.draw_value(rng, conversion)
    unit = rng.choice(conversion.source.spellings)
    question = rng.choice(conversions.TEMPLATES).format(
        x=first, u=unit, v=rng.choice(conversion.target.spellings)
    )
    setting = after(draw_setting(rng), dress(rng, question), conversions.sentence(conversion, first))
    text = rng.choice(AGAIN).format(q=f"{second} {unit}")
    return Example(
        NAME,
        setting.prompt(user(text)),
        answer(
            conversions.thinking(conversion, second, setting.effort), conversions.sentence(conversion, second)
        ),
        Expected(numbers=(second, conversions.convert(conversion, second))),
        f"follow conversion {first} {second} {conversion.source.name} {conversion.target.name}",
        detail="conversions",
        parts=tuple(conversions.key_of(x, conversion.source, conversion.target) for x in (first, second)),
    )
