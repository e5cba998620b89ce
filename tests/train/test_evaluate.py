"""The examiner: a perfect pupil gets full marks, and each way of being wrong is noticed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import pytest

from mosso.harmony.conversation import Channel, Conversation, Effort, Message, Role, SystemContent
from mosso.harmony.events import MessageEndReason, ParsedMessage
from mosso.train.evaluate import EFFORT_SKILL, Report, Turn, evaluate, failure_of, problem_count
from mosso.train.examples import SKILLS, Example, Split, examples
from mosso.train.skills.base import EFFORTS, Expected

PER_SKILL = 6
WORDS = {Effort.LOW: 0, Effort.MEDIUM: 7, Effort.HIGH: 20}


def effort_of(conversation: Conversation) -> Effort:
    content = conversation.messages[0].content
    assert isinstance(content, SystemContent)
    assert content.effort is not None
    return content.effort


def heard(conversation: Conversation) -> str:
    """A conversation without its effort and its thoughts."""
    return repr([m for m in conversation.messages[1:] if m.channel != Channel.ANALYSIS])


def parsed(message: Message) -> ParsedMessage:
    reason = MessageEndReason.CALL if message.recipient else MessageEndReason.RETURN
    recipient, kind = message.recipient, message.content_type
    return ParsedMessage(str(message.role), message.channel, recipient, kind, str(message.content), reason)


def turn_of(target: tuple[Message, ...], *, tokens: int = 0, well_formed: bool = True) -> Turn:
    return Turn(tuple(map(parsed, target)), well_formed, tokens)


class Pupil:
    """Knows every held-out problem of a seed by heart. `spoil` may change what it says."""

    def __init__(self, spoil: Callable[[Example, Turn], Turn] = lambda example, turn: turn) -> None:
        self.spoil = spoil
        self.running = self.most = self.turns = 0
        self.known = {heard(e.prompt): e for seed, skills in _PAPERS for e in _learnt(seed, skills)}

    async def __call__(self, conversation: Conversation) -> Turn:
        self.turns += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        example = self.known[heard(conversation)]
        return self.spoil(example, turn_of(example.target, tokens=WORDS[effort_of(conversation)]))


_PAPERS = [*((5, (skill,)) for skill in SKILLS), (6, SKILLS)]


def _learnt(seed: int, skills: tuple[str, ...]) -> list[Example]:
    return list(islice(examples(seed, Split.HELD_OUT, skills), 4 * PER_SKILL))


async def report_of(pupil: Pupil, *, concurrency: int = 16) -> Report:
    return await evaluate(pupil, seed=5, per_skill=PER_SKILL, concurrency=concurrency)


def only(skill: str, change: Callable[[Turn], Turn]) -> Callable[[Example, Turn], Turn]:
    return lambda example, turn: change(turn) if example.skill == skill else turn


def with_last_text(turn: Turn, text: str) -> Turn:
    return replace(turn, messages=(*turn.messages[:-1], replace(turn.messages[-1], text=text)))


async def test_a_perfect_pupil_gets_full_marks() -> None:
    pupil = Pupil()
    report = await report_of(pupil)
    assert report.skills == dict.fromkeys((*SKILLS, EFFORT_SKILL), 1.0)
    assert report.well_formed == 1.0
    assert report.failures == ()
    assert pupil.turns > problem_count(PER_SKILL)  # some dialogues have several turns


async def test_thinking_is_reported_by_skill_and_effort() -> None:
    report = await report_of(Pupil())
    assert report.thinking[EFFORT_SKILL] == {effort: WORDS[effort] for effort in EFFORTS}
    for skill in SKILLS:
        assert all(tokens == WORDS[Effort(effort)] for effort, tokens in report.thinking[skill].items())


@pytest.mark.parametrize("skill", SKILLS)
async def test_a_wrong_answer_costs_its_skill_and_no_other(skill: str) -> None:
    report = await report_of(Pupil(only(skill, lambda turn: with_last_text(turn, "It is 17."))))
    assert report.skills[skill] < 0.2
    others = {name: share for name, share in report.skills.items() if name != skill}
    assert set(others.values()) == {1.0}
    assert {failure.skill for failure in report.failures} == {skill}
    assert all(failure.failure and failure.question for failure in report.failures)


async def test_a_wrong_last_turn_of_a_tool_dialogue_is_noticed() -> None:
    def spoil(example: Example, turn: Turn) -> Turn:
        return turn if example.opens else with_last_text(turn, "I forgot.")

    report = await report_of(Pupil(spoil))
    assert report.skills["tool_calling"] < 1
    assert all(failure.turns > 1 for failure in report.failures)


async def test_mended_harmony_is_counted_even_when_the_answer_is_right() -> None:
    report = await report_of(Pupil(only("about", lambda turn: replace(turn, well_formed=False))))
    assert 0.8 < report.well_formed < 1
    assert report.skills["about"] == 1.0
    none = await report_of(Pupil(lambda example, turn: replace(turn, well_formed=False)))
    assert (none.well_formed, none.skills["about"]) == (0, 1.0)


async def test_equal_thinking_at_all_efforts_fails_the_effort_skill_only() -> None:
    report = await report_of(Pupil(lambda example, turn: replace(turn, thinking_tokens=9)))
    assert report.skills[EFFORT_SKILL] == 0
    assert {report.skills[skill] for skill in SKILLS} == {1.0}


async def test_no_more_run_at_once_than_asked_for() -> None:
    pupil = Pupil()
    await report_of(pupil, concurrency=3)
    assert pupil.most == 3


async def test_progress_is_told_once_a_problem() -> None:
    told: list[None] = []
    await evaluate(Pupil(), seed=5, per_skill=PER_SKILL, progress=lambda: told.append(None))
    assert len(told) == problem_count(PER_SKILL)


async def test_the_report_is_json_and_a_plain_table() -> None:
    report = await report_of(Pupil(only("lists", lambda turn: with_last_text(turn, "?"))))
    again = json.loads(json.dumps(report.as_json()))
    assert again["skills"] == report.skills
    assert again["failures"][0]["question"]
    lines = report.table().splitlines()
    assert [line.split()[0] for line in lines] == ["skill", *SKILLS, EFFORT_SKILL, "harmony"]
    assert all(line.isprintable() for line in lines)
    assert "0.0%" in lines[1 + SKILLS.index("lists")]
    assert set(report.details["arithmetic"]) <= {
        f"{sign} {digits} digits" for sign in "+-*" for digits in (1, 2, 3)
    } | {"chain"}


async def test_a_seed_asks_the_same_problems() -> None:
    wrong = only("lists", lambda turn: with_last_text(turn, "?"))
    first, second = await report_of(Pupil(wrong)), await report_of(Pupil(wrong))
    assert first == second


def final(text: str) -> Turn:
    return turn_of((Message(Role.ASSISTANT, text, channel=Channel.FINAL),))


@pytest.mark.parametrize(
    ("expected", "right", "wrong"),
    [
        (Expected(last_number="12"), "5 + 7 = 12.", "5 + 7 = 120."),
        (Expected(last_number="-12"), "5 − 17 = −12.", "5 − 17 = 12."),
        (Expected(last_number="3"), "There are 3 items.", "There are items."),
        (Expected(numbers=("2.5", "2500")), "2.5 km is 2500 m.", "2.5 km is 250 m."),
        (Expected(numbers=("1", "2")), "1, 2", "2, 1"),
        (Expected(items=("3", "-1")), "3, -1", "3, 1"),
        (Expected(items=("apple", "Oslo")), "apple, Oslo", "apple, Oslo, pear"),
        (Expected(json={"a": 1, "b": None}), '{"b": null, "a": 1}', '{"a": 1}'),
        (Expected(json={"a": "x"}), '{"a": "x"}', 'Here: {"a": "x"}'),
        (Expected(contains=("18", "sunny")), "It is Sunny, 18 degrees.", "It is sunny, 180 degrees."),
        (Expected(contains=("18",)), "It is 18.", "It is 1.18."),
    ],
)
def test_answers_are_read_strictly(expected: Expected, right: str, wrong: str) -> None:
    assert failure_of(expected, final(right)) == ""
    assert failure_of(expected, final(wrong)) != ""


def call(name: str, arguments: str) -> Turn:
    where, kind = f"functions.{name}", "<|constrain|>json"
    message = Message(
        Role.ASSISTANT, arguments, channel=Channel.COMMENTARY, recipient=where, content_type=kind
    )
    return turn_of((message,))


@pytest.mark.parametrize(
    ("turn", "right"),
    [
        (call("get_weather", '{"city":"Oslo"}'), True),
        (call("get_time", '{"city": "Oslo"}'), False),
        (call("get_weather", '{"city": "Rome"}'), False),
        (call("get_weather", '{"city": "Oslo"'), False),
        (final("It is cold in Oslo."), False),
        (turn_of(()), False),
    ],
)
def test_calls_are_read_strictly(turn: Turn, right: bool) -> None:
    expected = Expected(call=("get_weather", {"city": "Oslo"}))
    assert (failure_of(expected, turn) == "") is right


def test_a_call_is_no_answer_and_two_answers_are_none() -> None:
    expected = Expected(contains=("hello",))
    assert "called" in failure_of(expected, call("get_weather", "{}"))
    assert failure_of(expected, turn_of(())) == "0 final answers"
    twice = final("Hello!").messages * 2
    assert failure_of(expected, Turn(twice, True, 0)) == "2 final answers"
