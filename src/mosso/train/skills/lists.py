"""Sorting and counting short lists of numbers or words, one element at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from mosso.harmony.conversation import Effort
from mosso.train.skills.base import Example, Expected, answer, draw_setting, dress, user
from mosso.train.skills.words import CITIES, COMMON_WORDS, FIRST_NAMES, nonce

NAME = "lists"

ASCENDING = (
    "Sort {l}.", "Sort these numbers: {l}", "Sort {l} in ascending order.", "Sort {l} from smallest to largest.",
    "Put {l} in order.", "Order these from low to high: {l}", "Please sort this list: {l}", "sort {l}",
    "Can you sort {l}?", "Arrange {l} in increasing order.", "List these in ascending order: {l}",
    "What is {l} in sorted order?", "Sort the list [{l}].", "Order {l}.", "Sort [{l}]", "sort these numbers: {l}",
    "Can you order {l} from the smallest to the largest?", "Sort these: {l}", "Sort the numbers {l}.", "I have {l}. Sort them.",
)  # fmt: skip
DESCENDING = (
    "Sort {l} in descending order.", "Sort {l} from largest to smallest.", "Order these from high to low: {l}",
    "Put {l} in decreasing order.", "Sort these numbers in descending order: {l}", "sort {l} descending",
    "Arrange {l} from the biggest to the smallest.", "Sort {l} in reverse order.",
)  # fmt: skip
ALPHABETIC = (
    "Sort these words: {l}", "Sort {l} alphabetically.", "Put {l} in alphabetical order.",
    "Order these words from A to Z: {l}", "Arrange {l} alphabetically.", "Alphabetize {l}.",
    "Sort the words {l}.", "Can you put {l} in alphabetical order?", "sort {l} alphabetically", "Sort these from A to Z: {l}",
    "What is the alphabetical order of {l}?", "Please sort these words alphabetically: {l}", "Sort this list of words: {l}",
)  # fmt: skip
COUNT = (
    "How many items are in this list: {l}", "Count the items: {l}", "How many {k} are there: {l}?",
    "Count these {k}: {l}", "How long is the list {l}?", "How many {k} are in {l}?", "Count {l}.",
    "What is the length of this list: {l}", "Tell me how many {k} this list has: {l}", "How many {k}? {l}", "count: {l}",
    "How many {k} does [{l}] have?", "Please count these {k}: {l}", "I have {l}. How many {k} is that?",
)  # fmt: skip
COUNT_WORD = (
    'How many times does {x} appear in {l}?', 'How often is {x} in this list: {l}', "Count {x} in {l}.",
    "Count how often {x} occurs in {l}.", "In the list {l}, how many times is {x} there?",
)  # fmt: skip
COUNT_ABOVE = (
    "How many of {l} are greater than {x}?", "How many numbers are above {x}: {l}",
    "Count the numbers larger than {x} in {l}.", "In {l}, how many are bigger than {x}?",
)  # fmt: skip
EXTREME = {
    "largest": ("What is the largest of {l}?", "Which is the biggest number: {l}?", "Find the maximum of {l}.",
                "Largest of {l}?", "What is the max of {l}?", "Which of {l} is the highest?"),
    "smallest": ("What is the smallest of {l}?", "Which is the smallest number: {l}?", "Find the minimum of {l}.",
                 "Smallest of {l}?", "What is the min of {l}?", "Which of {l} is the lowest?"),
}  # fmt: skip


_PLACES = tuple(city for city in CITIES if " " not in city)


def joined(items: list[str]) -> str:
    return ", ".join(items)


def spoken(rng: random.Random, items: list[str]) -> str:
    """As people type lists: commas, spaces, a closing `and`."""
    form = rng.random()
    if form < 0.55:
        return ", ".join(items)
    if form < 0.75:
        return ", ".join(items[:-1]) + " and " + items[-1]
    if form < 0.85:
        return ", ".join(items[:-1]) + ", and " + items[-1]
    return " ".join(items) if form < 0.93 else ",".join(items)


def sort_thinking(items: list[str], ordered: list[str], effort: Effort, pick: str) -> str:
    """Selection sort, written out. Low: the picks. Medium: what is left before each. High: and a recount."""
    if effort is Effort.LOW:
        return joined(ordered)
    left, lines = list(items), [f"Pick the {pick} of what is left."]
    for item in ordered:
        lines.append(f"{joined(left)}: {item}")
        left.remove(item)
    if effort is Effort.HIGH:
        lines.append(f"check: {indexed(ordered)}")
        lines.append(f"{len(items)} given, {len(ordered)} sorted.")
    return "\n".join(lines)


def indexed(items: list[str]) -> str:
    return " ".join(f"{i}:{item}" for i, item in enumerate(items, 1))


def count_thinking(items: list[str], effort: Effort) -> str:
    if effort is Effort.LOW:
        return indexed(items)
    lines = ["Number each item.", *(f"{i}: {item}" for i, item in enumerate(items, 1))]
    if effort is Effort.HIGH:
        lines += ["check backwards: " + " ".join(reversed(items)), "count: " + indexed(items)]
    return "\n".join([*lines, f"So {len(items)}."])


def tally(items: list[str], hits: list[bool], question: str, effort: Effort) -> str:
    """Each item with its verdict and the count so far."""
    count, lines = 0, []
    for item, hit in zip(items, hits, strict=True):
        count += hit
        if effort is Effort.LOW:
            lines.append(f"{item} {count}")
        else:
            lines.append(f"{item}: {'yes' if hit else 'no'}, {count}")
    if effort is Effort.LOW:
        return ", ".join(lines)
    lines.insert(0, f"Go through the list: {question}?")
    if effort is Effort.HIGH:
        lines.append("check: " + joined([item for item, hit in zip(items, hits, strict=True) if hit]))
        lines.append(f"that is {count}.")
    return "\n".join(lines)


def extreme_thinking(items: list[str], largest: bool, effort: Effort) -> str:
    """The best so far, item by item."""
    choose = max if largest else min
    best, lines = items[0], [items[0]]
    for item in items[1:]:
        better = str(choose(int(best), int(item)))
        lines.append(better if effort is Effort.LOW else f"{best} or {item}: {better}")
        best = better
    if effort is Effort.LOW:
        return " ".join(lines)
    if effort is Effort.HIGH:
        sign = "<=" if largest else ">="
        lines += ["check:", *(f"{item} {sign} {best}" for item in items)]
    return "\n".join(["Keep the best so far.", *lines])


def draw_numbers(rng: random.Random, low: int = 2, high: int = 8) -> list[str]:
    """Whole numbers; at times some below zero, at times one of them twice."""
    most = rng.choice((20, 100, 100, 1000))
    least = -most if rng.random() < 0.08 else 0
    items = [str(n) for n in rng.sample(range(least, most), rng.randint(low, high))]
    if len(items) > 2 and rng.random() < 0.12:
        items[rng.randrange(len(items))] = rng.choice(items)
    return items


def draw_words(rng: random.Random, low: int = 2, high: int = 7) -> list[str]:
    """Words, names, places or words that nobody knows; mostly of different first letters."""
    roll = rng.random()
    pool = COMMON_WORDS if roll < 0.7 else FIRST_NAMES if roll < 0.8 else _PLACES if roll < 0.85 else ()
    twins = pool is COMMON_WORDS and rng.random() < 0.3
    found: dict[str, str] = {}
    count = rng.randint(low, high)
    while len(found) < count:
        word = rng.choice(pool) if pool else nonce(rng)
        found.setdefault(word if twins else word[0], word)
    return list(dict.fromkeys(found.values()))


def draw(rng: random.Random) -> Iterator[Example]:
    kinds = (_sort, _sort_words, _count, _count_equal, _count_above, _extreme)
    yield rng.choices(kinds, (5, 3, 2, 1, 1, 1))[0](rng)


def sort_key(items: list[str], *, down: bool) -> str:
    return f"lists sort {down} {joined(items)}"


def _example(
    rng: random.Random,
    text: str,
    think: Callable[[Effort], str],
    final: str,
    expected: Expected,
    key: str,
    detail: str,
) -> Example:
    setting = draw_setting(rng)
    words = setting.prompt(user(dress(rng, text)))
    return Example(NAME, words, answer(think(setting.effort), final), expected, key, detail)


def _sort(rng: random.Random) -> Example:
    items = draw_numbers(rng)
    down = rng.random() < 0.35
    ordered = sorted(items, key=int, reverse=down)
    text = rng.choice(DESCENDING if down else ASCENDING).format(l=spoken(rng, items))
    return _example(
        rng,
        text,
        lambda effort: sort_thinking(items, ordered, effort, "largest" if down else "smallest"),
        joined(ordered),
        Expected(items=tuple(ordered)),
        sort_key(items, down=down),
        "sort numbers",
    )


def _sort_words(rng: random.Random) -> Example:
    items = draw_words(rng)
    ordered = sorted(items)
    return _example(
        rng,
        rng.choice(ALPHABETIC).format(l=spoken(rng, items)),
        lambda effort: sort_thinking(items, ordered, effort, "first in the alphabet"),
        joined(ordered),
        Expected(items=tuple(ordered)),
        f"lists alphabet {joined(items)}",
        "sort words",
    )


def _count(rng: random.Random) -> Example:
    words = rng.random() < 0.6
    items = draw_words(rng, 2, 9) if words else draw_numbers(rng, 2, 10)
    kind = rng.choice(("words", "items")) if words else rng.choice(("numbers", "items"))
    return _example(
        rng,
        rng.choice(COUNT).format(l=spoken(rng, items), k=kind),
        lambda effort: count_thinking(items, effort),
        f"There are {len(items)} items.",
        Expected(last_number=str(len(items))),
        f"lists count {joined(items)}",
        "count",
    )


def _count_equal(rng: random.Random) -> Example:
    pool = draw_words(rng, 2, 4)
    items = [rng.choice(pool) for _ in range(rng.randint(3, 9))]
    wanted = rng.choice(pool)
    hits = [item == wanted for item in items]
    return _example(
        rng,
        rng.choice(COUNT_WORD).format(l=spoken(rng, items), x=wanted),
        lambda effort: tally(items, hits, wanted, effort),
        f"{wanted} appears {sum(hits)} {'time' if sum(hits) == 1 else 'times'}.",
        Expected(last_number=str(sum(hits))),
        f"lists equal {wanted} {joined(items)}",
        "count equal",
    )


def _count_above(rng: random.Random) -> Example:
    items = draw_numbers(rng)
    limit = rng.randint(1, max(2, *map(int, items)))
    hits = [int(item) > limit for item in items]
    return _example(
        rng,
        rng.choice(COUNT_ABOVE).format(l=spoken(rng, items), x=limit),
        lambda effort: tally(items, hits, f"greater than {limit}", effort),
        f"{sum(hits)} of them {'is' if sum(hits) == 1 else 'are'} greater than {limit}.",
        Expected(numbers=(str(sum(hits)), str(limit))),
        f"lists above {limit} {joined(items)}",
        "count above",
    )


def _extreme(rng: random.Random) -> Example:
    items = draw_numbers(rng)
    which = rng.choice(("largest", "smallest"))
    best = str((max if which == "largest" else min)(map(int, items)))
    return _example(
        rng,
        rng.choice(EXTREME[which]).format(l=spoken(rng, items)),
        lambda effort: extreme_thinking(items, which == "largest", effort),
        f"The {which} is {best}.",
        Expected(last_number=best),
        f"lists {which} {joined(items)}",
        which,
    )
