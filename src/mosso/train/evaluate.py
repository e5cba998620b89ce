"""The examination of the demo model: fresh held-out problems of every skill, by seed."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from statistics import median
from typing import Any

from mosso.core.json import JsonValue
from mosso.harmony.conversation import Channel, Conversation, Effort, Message, Role, SystemContent
from mosso.harmony.events import ParsedMessage
from mosso.train.examples import SKILLS, Example, Split, examples
from mosso.train.skills.base import CALL_CONTENT_TYPE, EFFORTS, Expected

EFFORT_SKILL = "effort"  # the same problem at low, medium and high: each thinks longer than the one before
_NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model said: its messages, and how many tokens of thinking."""

    messages: tuple[ParsedMessage, ...]
    well_formed: bool  # the parser mended nothing and the turn ended by itself
    thinking_tokens: int


Complete = Callable[[Conversation], Awaitable[Turn]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One problem's result; `failure` says what was wrong, empty when nothing was."""

    skill: str
    detail: str
    question: str
    failure: str
    turns: int
    well_formed: int
    thinking: dict[str, int] = field(default_factory=dict)  # effort → tokens of the first turn


@dataclass(frozen=True, slots=True)
class Report:
    """Shares are of 1."""

    seed: int
    per_skill: int
    skills: dict[str, float]
    details: dict[str, dict[str, float]]
    well_formed: float
    thinking: dict[str, dict[str, float]]  # skill → effort → median tokens
    failures: tuple[Outcome, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        lines = [f"{'skill':<14}{'right':>8}{'low':>8}{'medium':>8}{'high':>8}   (median tokens of thinking)"]
        for skill, share in self.skills.items():
            lengths = self.thinking.get(skill, {})
            shown = "".join(f"{lengths[e]:8.0f}" if e in lengths else f"{'':8}" for e in EFFORTS)
            lines.append(f"{skill:<14}{share:8.1%}{shown}")
        lines.append(f"{'harmony':<14}{self.well_formed:8.1%}   well-formed turns")
        return "\n".join(lines)


async def evaluate(
    complete: Complete,
    *,
    seed: int,
    per_skill: int = 200,
    concurrency: int = 16,
    progress: Callable[[], None] = lambda: None,
) -> Report:
    """Ask `per_skill` held-out problems of each skill, `concurrency` at once."""
    slots = asyncio.Semaphore(concurrency)

    async def run(examine: Callable[[Complete, Example], Awaitable[Outcome]], example: Example) -> Outcome:
        async with slots:
            outcome = await examine(complete, example)
        progress()
        return outcome

    outcomes = await asyncio.gather(*(run(*paper) for paper in _papers(seed, per_skill)))
    return _report(outcomes, seed, per_skill)


def problem_count(per_skill: int) -> int:
    return per_skill * (len(SKILLS) + 1)


def _papers(
    seed: int, per_skill: int
) -> Iterator[tuple[Callable[[Complete, Example], Awaitable[Outcome]], Example]]:
    for skill in SKILLS:
        for example in islice(_openings(seed, (skill,)), per_skill):
            yield examine, example
    for example in islice(_openings(seed + 1, SKILLS), per_skill):
        yield examine_effort, example


def _openings(seed: int, skills: Sequence[str]) -> Iterator[Example]:
    """Examples that open a dialogue; later turns are reached by running it."""
    return (example for example in examples(seed, Split.HELD_OUT, skills) if example.opens)


async def examine(complete: Complete, example: Example) -> Outcome:
    """Run the dialogue that the example opens, giving the scripted tool results."""
    conversation, expected, turns = example.prompt, example.expected, []
    failure = ""
    for result, following in (*example.script, (None, None)):
        turn = await complete(conversation)
        turns.append(turn)
        failure = failure_of(expected, turn)
        if failure or result is None or following is None:
            break
        conversation = _continued(conversation, turn, result)
        expected = following
    effort = _effort(example.prompt)
    return Outcome(
        example.skill,
        example.detail,
        _question(example.prompt),
        failure,
        len(turns),
        sum(turn.well_formed for turn in turns),
        {effort: turns[0].thinking_tokens},
    )


async def examine_effort(complete: Complete, example: Example) -> Outcome:
    turns = [await complete(_at_effort(example.prompt, effort)) for effort in EFFORTS]
    lengths = [turn.thinking_tokens for turn in turns]
    grows = lengths[0] < lengths[1] < lengths[2]
    return Outcome(
        EFFORT_SKILL,
        example.skill,
        _question(example.prompt),
        "" if grows else f"thinking of {lengths} tokens at low, medium, high",
        len(turns),
        sum(turn.well_formed for turn in turns),
        dict(zip(EFFORTS, lengths, strict=True)),
    )


def failure_of(expected: Expected, turn: Turn) -> str:
    """What is wrong with a turn, in words; empty when nothing is."""
    calls = [message for message in turn.messages if message.recipient]
    finals = [message.text for message in turn.messages if message.channel == Channel.FINAL]
    if expected.call is not None:
        return _call_failure(expected.call, calls)
    if calls:
        return f"called {calls[0].recipient} instead of answering"
    if len(finals) != 1:
        return f"{len(finals)} final answers"
    return "" if _answers(expected, finals[0]) else f"answered {finals[0]!r}, expected {expected}"


def _call_failure(call: tuple[str, Any], calls: Sequence[ParsedMessage]) -> str:
    name, arguments = call
    if len(calls) != 1:
        return f"{len(calls)} calls, expected one of {name}"
    said = f"{calls[0].recipient} {calls[0].text}"
    try:
        right = calls[0].recipient == f"functions.{name}" and json.loads(calls[0].text) == arguments
    except ValueError:
        right = False
    return "" if right else f"called {said}, expected {name} {json.dumps(arguments, ensure_ascii=False)}"


def _answers(expected: Expected, text: str) -> bool:
    numbers = tuple(number.replace("−", "-") for number in _NUMBER.findall(text))
    return all(
        (
            all(_has(text, part) for part in expected.contains),
            expected.last_number is None or numbers[-1:] == (expected.last_number,),
            expected.numbers is None or numbers == expected.numbers,
            expected.items is None or text.lower().split(", ") == [item.lower() for item in expected.items],
            expected.json is None or _json_equals(text, expected.json),
        )
    )


def _has(text: str, part: str) -> bool:
    """`part` stands in the text as whole words or numbers."""
    return re.search(rf"(?<![\w.]){re.escape(part.lower())}(?![\w])", text.lower()) is not None


def _json_equals(text: str, value: JsonValue) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return bool(found == value)


def _continued(conversation: Conversation, turn: Turn, result: str) -> Conversation:
    """The conversation with the model's own thinking and call, and the tool's result."""
    said = []
    for message in turn.messages:
        if message.recipient:
            said.append(
                Message(
                    Role.ASSISTANT,
                    message.text,
                    channel=Channel.COMMENTARY,
                    recipient=message.recipient,
                    content_type=CALL_CONTENT_TYPE,
                )
            )
        elif message.channel == Channel.ANALYSIS:
            said.append(Message(Role.ASSISTANT, message.text, channel=Channel.ANALYSIS))
    reply = Message(
        Role.TOOL, result, name=said[-1].recipient, channel=Channel.COMMENTARY, recipient=Role.ASSISTANT
    )
    return Conversation((*conversation.messages, *said, reply))


def _effort(prompt: Conversation) -> Effort:
    content = prompt.messages[0].content
    assert isinstance(content, SystemContent)
    return content.effort or Effort.MEDIUM


def _at_effort(prompt: Conversation, effort: Effort) -> Conversation:
    first, *rest = prompt.messages
    assert isinstance(first.content, SystemContent)
    return Conversation((replace(first, content=replace(first.content, effort=effort)), *rest))


def _question(prompt: Conversation) -> str:
    return str(prompt.messages[-1].content)


def _report(outcomes: Sequence[Outcome], seed: int, per_skill: int) -> Report:
    by_skill: dict[str, list[Outcome]] = defaultdict(list)
    by_detail: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    lengths: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        by_skill[outcome.skill].append(outcome)
        by_detail[outcome.skill][outcome.detail].append(not outcome.failure)
        for effort, tokens in outcome.thinking.items():
            lengths[outcome.skill][effort].append(tokens)
    turns = sum(outcome.turns for outcome in outcomes)
    return Report(
        seed=seed,
        per_skill=per_skill,
        skills={s: _share([not o.failure for o in found]) for s, found in by_skill.items()},
        details={s: {d: _share(oks) for d, oks in sorted(found.items())} for s, found in by_detail.items()},
        well_formed=sum(outcome.well_formed for outcome in outcomes) / max(1, turns),
        thinking={s: {e: median(tokens) for e, tokens in found.items()} for s, found in lengths.items()},
        failures=tuple(outcome for outcome in outcomes if outcome.failure),
    )


def _share(oks: Sequence[bool]) -> float:
    return sum(oks) / len(oks)
