"""Function calling: choose one of the offered functions, copy its arguments, answer from its result.

Everything that the model says follows from the prompt and the effort; all diversity lies in the prompts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mosso.core.json import JsonObject, JsonValue
from mosso.harmony.conversation import (
    Channel,
    Conversation,
    Effort,
    FunctionTool,
    Message,
    Role,
    SystemContent,
)
from mosso.train.skills import about, arithmetic, conversions, extraction, limits, lists
from mosso.train.skills.base import (
    CALL_CONTENT_TYPE,
    CLOSERS,
    EFFORTS,
    OPENERS,
    Example,
    Expected,
    Setting,
    analysis,
    answer,
    draw_setting,
    final,
    user,
)
from mosso.train.skills.tool_functions import CLASSIC, POOL, SLOT, Function, Parameter, compose, spoken
from mosso.train.skills.tool_results import (
    answer_from,
    draw_error,
    draw_result,
    error_of,
    label,
    restated,
    scalars,
    statement,
)
from mosso.train.skills.tool_words import Value, listed

NAME = "tool_calling"
NONE_FITS = "None of my tools can do that."
MATHS = frozenset(("calculator", "add", "subtract", "multiply", "divide"))
ANYTHING = frozenset(("search",))  # a search could be said to fit any question

_AGAIN = ("And {v}?", "What about {v}?", "And for {v}?", "How about {v}?", "Now {v}.", "and {v}?", "Same for {v}, please.", "Now for {v}.", "{v}?")  # fmt: skip
_AGAIN_IN = ("And in {v}?", "And in {v}", "and in {v}?", "What about in {v}?", "Now in {v}.")
_ALSO = ("{a} Also, {b}", "{a} And {b}", "{a} Then {b}", "{a} {b}", "{a} After that, {b}")


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


@dataclass(frozen=True, slots=True)
class Step:
    """One call, what the model thinks before it, and the text that the tool gives."""

    name: str
    arguments: JsonObject
    result: str
    thought: str

    @property
    def expected(self) -> Expected:
        return Expected(call=(self.name, self.arguments))

    def call(self) -> tuple[Message, ...]:
        text = json.dumps(self.arguments, ensure_ascii=False)
        message = Message(
            Role.ASSISTANT,
            text,
            channel=Channel.COMMENTARY,
            recipient=f"functions.{self.name}",
            content_type=CALL_CONTENT_TYPE,
        )
        return (analysis(self.thought), message) if self.thought else (message,)

    def returned(self) -> Message:
        return Message(
            Role.TOOL,
            self.result,
            name=f"functions.{self.name}",
            channel=Channel.COMMENTARY,
            recipient=Role.ASSISTANT,
        )


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A question, the calls that it takes, and the answer."""

    kind: str
    prompt: Conversation  # up to the user's question
    steps: tuple[Step, ...]
    answer: tuple[Message, ...]
    expected: Expected  # of the answer
    key: str
    parts: tuple[str, ...] = ()  # keys of the single calls in it and before it

    def examples(self, *, forgetful: bool = False) -> Iterator[Example]:
        """Each assistant turn. `forgetful`: a client that does not send the thinking back."""
        expected = [*(step.expected for step in self.steps), self.expected]
        script = tuple(zip((step.result for step in self.steps), expected[1:], strict=True))
        history = self.prompt.messages
        for position, wanted in enumerate(expected):
            last = position == len(self.steps)
            target = self.answer if last else self.steps[position].call()
            yield Example(
                NAME,
                Conversation(history),
                target,
                wanted,
                self.key,
                detail=self.kind,
                script=script if position == 0 else (),
                parts=self.parts,
            )
            if not last:
                kept = target[-1:] if forgetful else target
                history = (*history, *kept, self.steps[position].returned())


def draw(rng: random.Random) -> Iterator[Example]:
    yield from draw_dialogue(rng).examples(forgetful=rng.random() < 0.15)


def draw_dialogue(rng: random.Random, kind: str | None = None) -> Dialogue:
    """A dialogue of this kind (a key of KINDS), or of any."""
    return KINDS[kind or rng.choices(tuple(KINDS), _WEIGHTS)[0]](rng)


def _one_call(rng: random.Random) -> Dialogue:
    ask = draw_ask(rng, draw_function(rng))
    return _called(rng, "one call", [ask], ask.question)


def _error(rng: random.Random) -> Dialogue:
    ask = draw_ask(rng, draw_function(rng))
    return _called(rng, "error", [ask], ask.question, errors=1.0)


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
    return _called(rng, "two calls", asks, question, errors=0.05)


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
    template, present = _template(rng, function)
    values = {p.name: p.draw(rng) for p in function.parameters if p.name in present}
    texts = [value.text for value in chosen.values()]
    joined = listed(texts)
    if f" in {slot}" in template and rng.random() < 0.4:
        joined = listed([texts[0], *(f"in {text}" for text in texts[1:])])
    question = _filled(template, {name: v.text for name, v in values.items()} | {varied.name: joined})
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
    tools = _offered(rng, [before.function, ask.function])
    setting = draw_setting(rng, effort, tools=tools)
    setting = replace(setting, turns=_finished(rng, before, tools, effort))
    dialogue = _dialogue(rng, "follow-up", [ask], ask.question, setting, errors=0.03)
    return replace(dialogue, parts=(before.key,))


def _none_fits(rng: random.Random) -> Dialogue:
    ask = draw_ask(rng, draw_function(rng))
    while ask.function.groups & MATHS:
        ask = draw_ask(rng, draw_function(rng))
    tools = _offered(rng, [], avoid=ask.function.groups | ANYTHING)
    setting = draw_setting(rng, tools=tools)
    thought = ""
    if setting.effort is Effort.MEDIUM:
        thought = "No tool fits."
    elif setting.effort is Effort.HIGH:
        thought = "\n".join((f"The user says: {ask.question}", *_fitting(tools, ""), "No tool fits."))
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
    tools, parts = _offered(rng, [], avoid=OWN_GROUPS), example.parts
    turns: tuple[Message, ...] = ()
    if rng.random() < 0.25:
        before = draw_ask(rng, draw_function(rng))
        if not before.function.groups & OWN_GROUPS:
            tools = _offered(rng, [before.function], avoid=OWN_GROUPS)
            turns, parts = _finished(rng, before, tools, system.effort), (*parts, before.key)
    setting = replace(draw_setting(rng, system.effort, tools=tools), turns=turns)
    prompt = setting.prompt(example.prompt.messages[-1])
    return Dialogue("direct", prompt, (), example.target, example.expected, example.key, parts)


def _finished(
    rng: random.Random, ask: Ask, tools: tuple[FunctionTool, ...], effort: Effort
) -> tuple[Message, ...]:
    """An earlier exchange, with its thinking or without: clients do either, and the renderer drops it."""
    step = _step(rng, ask, tools, effort, ())
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


def draw_function(rng: random.Random) -> Function:
    """A classic of the public examples, another one of the pool, or one that nobody has seen."""
    roll = rng.random()
    if roll < 0.65:
        return rng.choice(rng.choice(CLASSIC if roll < 0.35 else POOL))
    return compose(rng)


def draw_ask(rng: random.Random, function: Function) -> Ask:
    template, present = _template(rng, function)
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
    return Ask(function, ordered, _filled(template, {name: v.text for name, v in ordered.items()}))


def _value(rng: random.Random, parameter: Parameter) -> Value:
    value = parameter.draw(rng)
    if parameter.kind in ("city", "location") and rng.random() < 0.05:
        return Value(value.text.lower(), value.text.lower())
    return value


def _template(rng: random.Random, function: Function) -> tuple[str, frozenset[str]]:
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


def _filled(template: str, texts: dict[str, str]) -> str:
    return SLOT.sub(lambda slot: texts[slot[1]], template)


def _offered(
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


def _called(
    rng: random.Random, kind: str, asks: Sequence[Ask], question: str, *, errors: float = 0.0
) -> Dialogue:
    setting = draw_setting(rng, tools=_offered(rng, [ask.function for ask in asks]))
    return _dialogue(rng, kind, asks, question, setting, errors=errors)


def _dialogue(
    rng: random.Random, kind: str, asks: Sequence[Ask], question: str, setting: Setting, *, errors: float
) -> Dialogue:
    asks = [replace(ask, question=question) for ask in asks]
    steps: list[Step] = []
    for position, ask in enumerate(asks):
        done = tuple(earlier.label for earlier in asks[:position])
        steps.append(_step(rng, ask, setting.tools, setting.effort, done, errors=errors))
    results = [step.result for step in steps]
    labels = [ask.label for ask in asks]
    contains = [text for result in results for text in scalars(result)]
    if len(asks) == 1:
        text = answer_from(results[0])
    else:
        text = " ".join(f"{name}: {statement(result)}" for name, result in zip(labels, results, strict=True))
        contains += labels
    thought = _closing_thought(setting.effort, labels, results)
    keys = [ask.key for ask in asks]
    return Dialogue(
        kind,
        setting.prompt(user(question)),
        tuple(steps),
        answer(thought, text),
        Expected(contains=tuple(contains)),
        " | ".join(keys),
        tuple(keys) if len(keys) > 1 else (),
    )


def _step(
    rng: random.Random,
    ask: Ask,
    tools: tuple[FunctionTool, ...],
    effort: Effort,
    done: tuple[str, ...],
    *,
    errors: float = 0.0,
) -> Step:
    failed = errors and rng.random() < errors
    result = draw_error(rng) if failed else draw_result(rng, ask.function, ask.values)
    return Step(ask.function.name, ask.arguments, result, _opening_thought(ask, tools, effort, done))


def _opening_thought(ask: Ask, tools: tuple[FunctionTool, ...], effort: Effort, done: tuple[str, ...]) -> str:
    """What is thought before a call; `done` labels the calls before it."""
    if effort is Effort.LOW:
        return ""
    name = ask.function.name
    shown = {key: json.dumps(value, ensure_ascii=False) for key, value in ask.arguments.items()}
    if effort is Effort.MEDIUM:
        given = ", ".join(f"{key} {value}" for key, value in shown.items())
        return f"Call {name} with {given}." if given else f"Call {name}."
    lines = [f"Done: {listed(list(done))}.", f"Next: {name}."] if done else []
    if not done:
        lines = [f"The user says: {ask.question}", *_fitting(tools, name)]
    for parameter in ask.function.parameters:
        if parameter.name in shown:
            origin = "from before" if parameter.name in ask.carried else "from the question"
            lines.append(f"{parameter.name}: {shown[parameter.name]}, {origin}.")
        else:
            lines.append(f"{parameter.name}: not given.")
    return "\n".join(lines)


def _fitting(tools: tuple[FunctionTool, ...], name: str) -> Iterator[str]:
    for tool in tools:
        yield f"{tool.name}: {'fits' if tool.name == name else 'does not fit'}."


def _closing_thought(effort: Effort, labels: Sequence[str], results: Sequence[str]) -> str:
    """What is thought before the answer, once all results are there."""
    if effort is Effort.LOW:
        return ""
    if effort is Effort.MEDIUM:
        if len(results) > 1:
            return "Answer from the results."
        return "Answer from the result." if error_of(results[0]) is None else "The tool failed."
    lines = [f"{name} -> {restated(result)}" for name, result in zip(labels, results, strict=True)]
    return "\n".join((*lines, "All is known. Answer."))
