"""A question that one call answers, and the tools that a prompt offers beside the right one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mosso.core.json import JsonObject, JsonValue
from mosso.harmony.conversation import FunctionTool
from mosso.train.skills.base import CLOSERS, OPENERS
from mosso.train.skills.tool_functions import CLASSIC, POOL, SLOT, Function, Parameter, compose, spoken
from mosso.train.skills.tool_results import label
from mosso.train.skills.tool_words import Value


@dataclass(frozen=True, slots=True)
class Ask:
    """A question that one call answers."""

    function: Function
    values: dict[str, Value]  # by parameter, in the schema's order
    question: str
    carried: frozenset[str] = frozenset()  # arguments that stand in an earlier question

    @property
    def arguments(self) -> JsonObject:
        return {name: value.json for name, value in self.values.items()}

    @property
    def label(self) -> str:
        """What tells this call from another: its first argument, or the function where it has none."""
        first: JsonValue = next(iter(self.arguments.values()), spoken(self.function.name))
        return label(first)

    @property
    def key(self) -> str:
        return f"{spoken(self.function.name)} {sorted(map(str, self.arguments.values()))}"


def draw_function(rng: random.Random) -> Function:
    """A classic of the public examples, another one of the pool, or one that nobody has seen."""
    roll = rng.random()
    if roll < 0.65:
        return rng.choice(rng.choice(CLASSIC if roll < 0.35 else POOL))
    return compose(rng)


def draw_ask(rng: random.Random, function: Function) -> Ask:
    template, present = draw_template(rng, function)
    values = {p.name: _value(rng, p) for p in function.parameters if p.name in present}
    for parameter in function.parameters:
        if not parameter.required and parameter.name not in values and rng.random() < 0.3:
            added = _added(rng, parameter)
            if added is not None:
                sentence, values[parameter.name] = added
                template += ("" if template[-1] in '?.!"' else ".") + " " + sentence
    ordered = {p.name: values[p.name] for p in function.parameters if p.name in values}
    if rng.random() < 0.04:  # people who try a tool out name it
        given = ", ".join(f"{name} {value.text}" for name, value in ordered.items())
        return Ask(function, ordered, f"Call {function.name}" + (f" with {given}." if given else "."))
    return Ask(function, ordered, filled(template, {name: v.text for name, v in ordered.items()}))


def _value(rng: random.Random, parameter: Parameter) -> Value:
    value = parameter.draw(rng)
    if parameter.kind in ("city", "location") and rng.random() < 0.05:
        return Value(value.text.lower(), value.text.lower())
    return value


def draw_template(rng: random.Random, function: Function) -> tuple[str, frozenset[str]]:
    """A question in somebody's dress, and the names of its slots."""
    template = rng.choice(function.questions)
    present = frozenset(SLOT.findall(template))
    roll = rng.random()
    if roll < 0.2 and template[0] != "{" and template[:2] not in ("I ", "I'"):
        template = template[0].lower() + template[1:]
    if roll < 0.1:
        template = rng.choice(OPENERS) + template
    elif roll > 0.94:
        template += rng.choice(CLOSERS)
    elif roll > 0.84:
        template = template.rstrip("?.!")
    return template, present


def _added(rng: random.Random, parameter: Parameter) -> tuple[str, Value] | None:
    if not parameter.additions:
        return None
    sentence, fixed = rng.choice(parameter.additions)
    return sentence, parameter.draw(rng) if fixed is None else Value(fixed, str(fixed))


def filled(template: str, texts: dict[str, str]) -> str:
    return SLOT.sub(lambda slot: texts[slot[1]], template)


def offered(
    rng: random.Random, needed: Sequence[Function], avoid: frozenset[str] = frozenset()
) -> tuple[FunctionTool, ...]:
    """One to three tools in any order: the needed ones, and others that do not fit."""
    chosen = {function.name: function for function in needed}
    taken = avoid.union(*(function.groups for function in needed))
    number = max(len(chosen), rng.choices((1, 2, 3), (3, 3, 4))[0])
    while len(chosen) < number:
        other = draw_function(rng)
        if needed and needed[0].results == ("<any>",) and rng.random() < 0.25:  # the same thing, another verb
            group = next(iter(needed[0].groups))
            verb_class, noun = group.split(" ", 1)
            other = compose(rng, noun, avoid=verb_class)
        if not other.groups & taken and other.name not in chosen:
            chosen[other.name] = other
            taken |= other.groups
    tools = [function.tool for function in chosen.values()]
    rng.shuffle(tools)
    return tuple(tools)
