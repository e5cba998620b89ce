"""The turns of a dialogue with tools: calls, results and the answer from them, with the thinking of each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mosso.core.json import JsonObject
from mosso.harmony.conversation import Channel, Conversation, Effort, FunctionTool, Message, Role
from mosso.train.skills.base import (
    CALL_CONTENT_TYPE,
    Example,
    Expected,
    Setting,
    analysis,
    answer,
    draw_setting,
    user,
)
from mosso.train.skills.tool_asks import Ask, offered
from mosso.train.skills.tool_results import (
    answer_from,
    draw_error,
    draw_result,
    error_of,
    restated,
    scalars,
    statement,
)
from mosso.train.skills.tool_words import listed

NAME = "tool_calling"


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


def called(
    rng: random.Random, kind: str, asks: Sequence[Ask], question: str, *, errors: float = 0.0
) -> Dialogue:
    setting = draw_setting(rng, tools=offered(rng, [ask.function for ask in asks]))
    return dialogue_of(rng, kind, asks, question, setting, errors=errors)


def dialogue_of(
    rng: random.Random, kind: str, asks: Sequence[Ask], question: str, setting: Setting, *, errors: float
) -> Dialogue:
    asks = [replace(ask, question=question) for ask in asks]
    steps: list[Step] = []
    for position, ask in enumerate(asks):
        done = tuple(earlier.label for earlier in asks[:position])
        steps.append(step_of(rng, ask, setting.tools, setting.effort, done, errors=errors))
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


def step_of(
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
        lines = [f"The user says: {ask.question}", *fitting(tools, name)]
    for parameter in ask.function.parameters:
        if parameter.name in shown:
            origin = "from before" if parameter.name in ask.carried else "from the question"
            lines.append(f"{parameter.name}: {shown[parameter.name]}, {origin}.")
        else:
            lines.append(f"{parameter.name}: not given.")
    return "\n".join(lines)


def fitting(tools: tuple[FunctionTool, ...], name: str) -> Iterator[str]:
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
