"""Function calling: choose one of the offered functions, copy its arguments, answer from its result.

Everything that the model says follows from the prompt and the effort; all diversity lies in the prompts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from mosso.harmony.conversation import Channel, Effort, FunctionTool, Message, SystemContent
from mosso.train.skills import about, arithmetic, conversions, extraction, limits, lists
from mosso.train.skills.base import EFFORTS, Example, Expected, answer, draw_setting, final, user
from mosso.train.skills.tool_asks import Ask, draw_ask, draw_function, draw_template, filled, offered
from mosso.train.skills.tool_dialogue import NAME, Dialogue, called, dialogue_of, fitting, step_of
from mosso.train.skills.tool_functions import Function
from mosso.train.skills.tool_results import answer_from
from mosso.train.skills.tool_words import Value, listed

__all__ = ["KINDS", "NAME", "draw", "draw_dialogue"]

NONE_FITS = "None of my tools can do that."
MATHS = frozenset(("calculator", "add", "subtract", "multiply", "divide"))
ANYTHING = frozenset(("search",))  # a search could be said to fit any question

_AGAIN = ("And {v}?", "What about {v}?", "And for {v}?", "How about {v}?", "Now {v}.", "and {v}?", "Same for {v}, please.", "Now for {v}.", "{v}?")  # fmt: skip
_AGAIN_IN = ("And in {v}?", "And in {v}", "and in {v}?", "What about in {v}?", "Now in {v}.")
_ALSO = ("{a} Also, {b}", "{a} And {b}", "{a} Then {b}", "{a} {b}", "{a} After that, {b}")


def draw(rng: random.Random) -> Iterator[Example]:
    yield from draw_dialogue(rng).examples(forgetful=rng.random() < 0.15)


def draw_dialogue(rng: random.Random, kind: str | None = None) -> Dialogue:
    """A dialogue of this kind (a key of KINDS), or of any."""
    return KINDS[kind or rng.choices(tuple(KINDS), _WEIGHTS)[0]](rng)


def _one_call(rng: random.Random) -> Dialogue:
    ask = draw_ask(rng, draw_function(rng))
    return called(rng, "one call", [ask], ask.question)


def _error(rng: random.Random) -> Dialogue:
    ask = draw_ask(rng, draw_function(rng))
    return called(rng, "error", [ask], ask.question, errors=1.0)


def _two_calls(rng: random.Random) -> Dialogue:
    """The same function for two or three values, or two questions at once."""
    function = draw_function(rng)
    number = 3 if rng.random() < 0.15 else 2
    asks = _same_function(rng, function, number) if rng.random() < 0.6 else None
    if asks is None:
        first = draw_ask(rng, function)
        other = draw_function(rng)
        while other.name != function.name and other.groups & function.groups:
            other = draw_function(rng)
        second = draw_ask(rng, other if other.name != function.name else function)
        if second.key == first.key:
            return _two_calls(rng)
        ended = first.question if first.question[-1] in '?.!"' else first.question + "."
        question = rng.choice(_ALSO).format(a=ended, b=_lowered(second))
        asks = [first, second]
    else:
        question = asks[0].question
    return called(rng, "two calls", asks, question, errors=0.05)


def _lowered(ask: Ask) -> str:
    """The question as a sentence's second half; a value at its head keeps its capital."""
    text = ask.question
    if text[:2] in ("I ", "I'") or text.startswith(tuple(value.text for value in ask.values.values())):
        return text
    return text[0].lower() + text[1:]


def _same_function(rng: random.Random, function: Function, number: int) -> list[Ask] | None:
    varied = function.varied
    if varied is None:
        return None
    chosen: dict[str, Value] = {}
    while len(chosen) < number:
        value = varied.draw(rng)
        chosen[str(value.json)] = value
    slot = f"{{{varied.name}}}"
    template, present = draw_template(rng, function)
    values = {p.name: p.draw(rng) for p in function.parameters if p.name in present}
    texts = [value.text for value in chosen.values()]
    joined = listed(texts)
    if f" in {slot}" in template and rng.random() < 0.4:
        joined = listed([texts[0], *(f"in {text}" for text in texts[1:])])
    question = filled(template, {name: v.text for name, v in values.items()} | {varied.name: joined})
    return [Ask(function, values | {varied.name: value}, question) for value in chosen.values()]


def _follow_up(rng: random.Random) -> Dialogue:
    """A second question after a finished exchange: the same for another value, or a new one."""
    effort = rng.choice(EFFORTS)
    function = draw_function(rng)
    before = draw_ask(rng, function)
    varied = function.varied
    if varied is not None and rng.random() < 0.75:
        value = varied.draw(rng)
        templates = _AGAIN + _AGAIN_IN if varied.kind in ("city", "location") else _AGAIN
        ask = Ask(
            function,
            before.values | {varied.name: value},
            rng.choice(templates).replace("{v}", value.text),
            frozenset(before.values) - {varied.name},
        )
    else:
        other = draw_function(rng)
        while other.groups & function.groups:
            other = draw_function(rng)
        ask = draw_ask(rng, other)
    tools = offered(rng, [before.function, ask.function])
    setting = draw_setting(rng, effort, tools=tools)
    setting = replace(setting, turns=_finished(rng, before, tools, effort))
    dialogue = dialogue_of(rng, "follow-up", [ask], ask.question, setting, errors=0.03)
    return replace(dialogue, parts=(before.key,))


def _none_fits(rng: random.Random) -> Dialogue:
    ask = draw_ask(rng, draw_function(rng))
    while ask.function.groups & MATHS:
        ask = draw_ask(rng, draw_function(rng))
    tools = offered(rng, [], avoid=ask.function.groups | ANYTHING)
    setting = draw_setting(rng, tools=tools)
    thought = ""
    if setting.effort is Effort.MEDIUM:
        thought = "No tool fits."
    elif setting.effort is Effort.HIGH:
        thought = "\n".join((f"The user says: {ask.question}", *fitting(tools, ""), "No tool fits."))
    return Dialogue(
        "none fits",
        setting.prompt(user(ask.question)),
        (),
        answer(thought, NONE_FITS),
        Expected(contains=(NONE_FITS.removesuffix("."),)),
        ask.key,  # a question is held out whether or not a tool fits it
    )


def _direct(rng: random.Random) -> Dialogue:
    """Tools are offered, and at times one has served, but what is asked now the model answers by itself."""
    draw = rng.choices(tuple(_OWN), tuple(_OWN.values()))[0]
    example = next(draw(rng))
    while example.skill == limits.NAME and example.detail not in _NEVER_A_TOOLS:
        example = next(draw(rng))
    system = example.prompt.messages[0].content
    assert isinstance(system, SystemContent)
    assert system.effort is not None
    tools, parts = offered(rng, [], avoid=OWN_GROUPS), example.parts
    turns: tuple[Message, ...] = ()
    if rng.random() < 0.25:
        before = draw_ask(rng, draw_function(rng))
        if not before.function.groups & OWN_GROUPS:
            tools = offered(rng, [before.function], avoid=OWN_GROUPS)
            turns, parts = _finished(rng, before, tools, system.effort), (*parts, before.key)
    setting = replace(draw_setting(rng, system.effort, tools=tools), turns=turns)
    prompt = setting.prompt(example.prompt.messages[-1])
    return Dialogue("direct", prompt, (), example.target, example.expected, example.key, parts)


def _finished(
    rng: random.Random, ask: Ask, tools: tuple[FunctionTool, ...], effort: Effort
) -> tuple[Message, ...]:
    """An earlier exchange, with its thinking or without: clients do either, and the renderer drops it."""
    step = step_of(rng, ask, tools, effort, ())
    messages = (user(ask.question), *step.call(), step.returned(), final(answer_from(step.result)))
    if rng.random() < 0.5:
        return tuple(message for message in messages if message.channel != Channel.ANALYSIS)
    return messages


# Skills that need no tool, and how often each is asked.
_OWN = {
    about.draw: 4,
    arithmetic.draw: 3,
    conversions.draw: 1,
    lists.draw: 1,
    extraction.draw: 1,
    limits.draw: 2,
}
_NEVER_A_TOOLS = frozenset((
    "I cannot write code.", "I do not have opinions or feelings.", "I cannot spell or count letters.",
    "I cannot work with long texts.", "I do not understand.",
))  # fmt: skip
OWN_GROUPS = MATHS | ANYTHING | {"units", "text"}  # functions that could do what those skills do

KINDS = {
    "one call": _one_call,
    "two calls": _two_calls,
    "follow-up": _follow_up,
    "none fits": _none_fits,
    "direct": _direct,
    "error": _error,
}
_WEIGHTS = (42, 20, 15, 8, 8, 7)
