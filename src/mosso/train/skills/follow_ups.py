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
REVERSE = ("And in reverse?", "and in reverse", "Now in reverse.", "Reverse it.", "Now the other way round.", "Can you reverse it?", "Reverse the list.", "Now reverse that.")  # fmt: skip
TO_DESCENDING = ("And in descending order?", "Now from largest to smallest.", "And from high to low?")
TO_ASCENDING = ("And in ascending order?", "Now from smallest to largest.", "And from low to high?")
AND_IN = (
    "And in {v}?",
    "and in {v}",
    "What about {v}?",
    "Now in {v}.",
    "How many {v} is that?",
    "And how many {v}?",
    "In {v}?",
)
HOW_MANY = ("How many are there?", "How many numbers is that?", "Count them.", "And how many are they?")
EXTREMES = {
    "largest": ("Which is the largest?", "And the largest?", "What is the biggest of them?", "The maximum?"),
    "smallest": ("Which is the smallest?", "And the smallest?", "What is the least of them?", "The minimum?"),
}  # fmt: skip
ADD_ONE = ("Now add {x} to the list.", "Add {x} and sort again.", "And with {x} too?", "Put {x} in as well.")


_ALL = conversions.TIMES + conversions.CUSTOMARY
_SAME_SOURCE = tuple(
    (one, another)
    for one in _ALL + conversions.TENTHS
    for another in _ALL
    if one.source is another.source and one.target is not another.target
)


def after(setting: Setting, question: str, reply: str) -> Setting:
    """The setting with one more finished exchange; its thinking is gone, as the renderer leaves it."""
    return replace(setting, turns=(*setting.turns, user(question), final(reply)))


def draw(rng: random.Random) -> Iterator[Example]:
    kind = rng.choices((_arithmetic, _list, _conversion), (6, 3, 2))[0]
    yield kind(rng)


def _arithmetic(rng: random.Random) -> Example:
    """One to two changes of a running result; the target answers the last."""
    text, a, operator, b = arithmetic.problem(rng)
    setting = after(draw_setting(rng), dress(rng, text), arithmetic.equation(a, operator, b) + ".")
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
    """A sorted list, then: turned round, counted, its largest or smallest, one more element."""
    words, down = rng.random() < 0.2, rng.random() < 0.25
    items = lists.draw_words(rng, 2, 6) if words else lists.draw_numbers(rng, 2, 6)
    down = down and not words
    ordered = sorted(items) if words else sorted(items, key=int, reverse=down)
    templates = lists.ALPHABETIC if words else lists.DESCENDING if down else lists.ASCENDING
    question = rng.choice(templates).format(l=lists.spoken(rng, items))
    setting = after(draw_setting(rng), dress(rng, question), lists.joined(ordered))
    action = rng.choice(
        ("reverse", "count") if words else ("reverse", "reverse", "count", "largest", "smallest", "add")
    )
    if action == "add":
        extra = str(rng.randint(0, 999))
        text = rng.choice(ADD_ONE).format(x=extra)
        said = _longer(ordered, extra, down, setting.effort)
    else:
        text, said = _about_list(rng, action, ordered, down, setting.effort)
    thought, reply, expected = said
    return Example(
        NAME,
        setting.prompt(user(dress(rng, text))),
        answer(thought, reply),
        expected,
        f"follow list {action} {down} {lists.joined(items)}",
        detail="lists",
        parts=() if words else (lists.sort_key(items, down=down),),
    )


Said = tuple[str, str, Expected]  # the thought, the reply, what makes it right


def _longer(ordered: list[str], extra: str, down: bool, effort: Effort) -> Said:
    items = [*ordered, extra]
    longer = sorted(items, key=int, reverse=down)
    thought = lists.sort_thinking(items, longer, effort, "largest" if down else "smallest")
    return thought, lists.joined(longer), Expected(items=tuple(longer))


def _about_list(
    rng: random.Random, action: str, ordered: list[str], down: bool, effort: Effort
) -> tuple[str, Said]:
    if action == "count":
        reply = f"There are {len(ordered)} items."
        said = lists.count_thinking(ordered, effort), reply, Expected(last_number=str(len(ordered)))
        return rng.choice(HOW_MANY), said
    if action == "reverse":
        turned = ordered[::-1]
        text = rng.choice(
            REVERSE + (TO_ASCENDING if down else TO_DESCENDING if ordered[0].lstrip("-").isdigit() else ())
        )
        return text, (reverse_thinking(ordered, effort), lists.joined(turned), Expected(items=tuple(turned)))
    best = (max if action == "largest" else min)(ordered, key=int)
    thought = lists.extreme_thinking(ordered, action == "largest", effort)
    return rng.choice(EXTREMES[action]), (thought, f"The {action} is {best}.", Expected(last_number=best))


def reverse_thinking(ordered: list[str], effort: Effort) -> str:
    turned = lists.joined(ordered[::-1])
    if effort is Effort.LOW:
        return ""
    if effort is Effort.MEDIUM:
        return f"Read {lists.joined(ordered)} from the end."
    lines = ["Read the list from the end.", lists.indexed(ordered), "backwards: " + turned]
    return "\n".join([*lines, f"{len(ordered)} before, {len(ordered)} now."])


def _conversion(rng: random.Random) -> Example:
    """The same conversion of another amount, `and 12 km?`, or the same amount in another unit, `and in miles?`"""
    other = rng.random() < 0.35
    before, conversion = rng.choice(_SAME_SOURCE) if other else (rng.choice(_ALL),) * 2
    narrower = min((before, conversion), key=lambda c: (c.fractions, c not in conversions.CUSTOMARY))
    first = conversions.draw_value(rng, narrower)
    second = first if other else conversions.draw_value(rng, conversion)
    unit = rng.choice(before.source.spellings)
    question = rng.choice(conversions.TEMPLATES).format(
        x=first, u=unit, v=rng.choice(before.target.spellings)
    )
    setting = after(draw_setting(rng), dress(rng, question), conversions.sentence(before, first))
    if other:
        text = rng.choice(AND_IN).format(v=rng.choice(conversion.target.spellings))
    else:
        text = rng.choice(AGAIN).format(q=f"{second} {unit}")
    asked = ((first, before), (second, conversion))
    return Example(
        NAME,
        setting.prompt(user(text)),
        answer(
            conversions.thinking(conversion, second, setting.effort), conversions.sentence(conversion, second)
        ),
        Expected(numbers=(second, conversions.convert(conversion, second))),
        f"follow conversion {first} {before.target.name} {second} {conversion.source.name} {conversion.target.name}",
        detail="conversions",
        parts=tuple(conversions.key_of(x, done.source, done.target) for x, done in asked),
    )
