"""Endless examples over all skills, split so that an examiner's problem is never trained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator

from mosso.train.skills import about, arithmetic, conversions, extraction, follow_ups, limits, lists, tools
from mosso.train.skills.base import Example, Split

__all__ = ["SKILLS", "Example", "Split", "examples"]

Draw = Callable[[random.Random], Iterator[Example]]

# What a skill yields a draw, and how often it is drawn: products and tool calls need the most.
_TABLE: dict[str, tuple[Draw, float]] = {
    arithmetic.NAME: (arithmetic.draw, 10),
    conversions.NAME: (conversions.draw, 4),
    lists.NAME: (lists.draw, 7),
    extraction.NAME: (extraction.draw, 4),
    tools.NAME: (tools.draw, 5),  # a draw is a whole dialogue, two or three examples
    follow_ups.NAME: (follow_ups.draw, 5),
    about.NAME: (about.draw, 3),
    limits.NAME: (limits.draw, 4),
}
SKILLS = tuple(_TABLE)


def examples(seed: int, split: Split, skills: Collection[str] | None = None) -> Iterator[Example]:
    """Examples of one split, deterministic for a seed; `skills` None is all of them by their weights.

    The turns of one dialogue share a key, so they fall into one split and follow each other.
    """
    rng = random.Random(f"{seed} {split}")
    chosen = {name: entry for name, entry in _TABLE.items() if skills is None or name in skills}
    draws = [draw for draw, _ in chosen.values()]
    weights = [weight for _, weight in chosen.values()]
    while True:
        for draw in rng.choices(draws, weights, k=256):
            for example in draw(rng):
                if example.within(split):
                    yield example
