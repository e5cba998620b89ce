"""What the demo model is taught: true working, right answers, splits that share nothing."""

from __future__ import annotations

import json
import pickle
import random
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

import pytest

from mosso.harmony.conversation import Channel, Conversation, Effort, Role, SystemContent
from mosso.train.examples import SKILLS, Example, Split, examples
from mosso.train.history import with_histories
from mosso.train.skills import about, arithmetic, conversions, extraction, follow_ups, limits, lists
from mosso.train.skills.base import EFFORTS, split_of

MODULES = (arithmetic, conversions, lists, extraction, follow_ups, about, limits)
COUNTED = (arithmetic, conversions, follow_ups)  # their working is made of equations

# y = x · factor + offset, written down apart from the skill's own table.
FACTORS = {
    ("km", "m"): 1000, ("m", "cm"): 100, ("cm", "mm"): 10, ("m", "mm"): 1000, ("kg", "g"): 1000,
    ("g", "mg"): 1000, ("liters", "ml"): 1000, ("tons", "kg"): 1000, ("euros", "cents"): 100,
    ("weeks", "days"): 7, ("days", "hours"): 24, ("hours", "minutes"): 60, ("minutes", "seconds"): 60,
    ("years", "months"): 12, ("feet", "inches"): 12, ("yards", "feet"): 3, ("pounds", "ounces"): 16,
    ("dozen", "pieces"): 12, ("bytes", "bits"): 8, ("miles", "km"): Fraction("1.6"),
    ("km", "miles"): Fraction("0.62"), ("kg", "pounds"): Fraction("2.2"), ("inches", "cm"): Fraction("2.54"),
    ("feet", "cm"): Fraction("30.48"),
    ("MB", "kB"): 1000, ("km", "cm"): 100_000, ("hours", "seconds"): 3600, ("days", "minutes"): 1440,
    ("weeks", "hours"): 168, ("years", "days"): 365, ("years", "weeks"): 52, ("yards", "inches"): 36,
    ("feet", "m"): Fraction("0.3048"), ("pounds", "kg"): Fraction("0.45"), ("m", "feet"): Fraction("3.28"),
    ("cm", "inches"): Fraction("0.39"), ("gallons", "liters"): Fraction("3.8"), ("ounces", "g"): 28,
    ("yards", "m"): Fraction("0.91"), ("miles", "m"): 1609,
}  # fmt: skip


class AtEffort(random.Random):
    """Draws as ever, but the effort is always this one."""

    def __init__(self, seed: int, effort: Effort) -> None:
        super().__init__(seed)
        self.effort = effort

    def choice(self, seq: Sequence[Any]) -> Any:
        drawn = super().choice(seq)
        return self.effort if seq is EFFORTS else drawn


def drawn(module: Any, number: int, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    return [example for _ in range(number) for example in module.draw(rng)]


def thought(example: Example) -> str:
    return "\n".join(str(m.content) for m in example.target if m.channel == Channel.ANALYSIS)


def reply(example: Example) -> str:
    return str(example.target[-1].content)


def said(conversation: Conversation) -> tuple[tuple[str, str], ...]:
    """What people and the model said, without what surrounds it."""
    return tuple((str(m.role), m.content) for m in conversation.messages if isinstance(m.content, str))


def operation(a: int, operator: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


# Working


@pytest.mark.parametrize("module", COUNTED)
def test_every_equation_of_the_working_is_true(module: Any) -> None:
    found = 0
    for example in drawn(module, 1500):
        for left, right in re.findall(r"(?<![\d.])(\d+(?:[+*-]\d+)+)=(-?\d+)", thought(example)):
            assert eval(left) == int(right), (left, right)
            found += 1
    assert found > 3000


@pytest.mark.parametrize("module", COUNTED)
def test_every_block_of_the_working_arrives_where_its_heading_says(module: Any) -> None:
    """`347*6: … -> 2082`: the columns' digits, read from the last, are the result too."""
    blocks = 0
    for example in drawn(module, 1500, seed=1):
        for a, sign, b, steps, result in re.findall(
            r"(?<![\d.])(\d+)([+*-])(\d+):((?:\s(?:\w+ ?\w*: )?\d+[+*-][^=>\n]+=\d+[^\n>]*?)+)\s?-> (-?\d+)",
            thought(example),
        ):
            totals = re.findall(r"=(\d+)", steps)
            assert operation(int(a), sign, int(b)) == int(result)
            digits = "".join([totals[-1], *(total[-1] for total in totals[-2::-1])])
            assert int(digits) == int(result)
            assert not re.search(r"write (\d)", steps) or [
                total[-1] for total in totals[: len(re.findall(r"write", steps))]
            ] == re.findall(r"write (\d)", steps)
            blocks += 1
    assert blocks > 800


def test_partial_products_are_moved_to_their_place() -> None:
    for a, b in ((347, 286), (999, 909), (105, 70), (12, 340)):
        work = arithmetic.thinking(a, "*", b, Effort.LOW)
        places = {"tens": 10, "hundreds": 100}
        for part, place, moved in re.findall(r"-> (\d+), (\w+): (\d+)", work):
            assert int(part) * places[place] == int(moved)
        assert work.endswith(f"-> {a * b}")


def test_the_thought_arrives_at_the_answer() -> None:
    for example in drawn(arithmetic, 1500):
        results = re.findall(r"-> (-?\d+)", thought(example).split("check")[0])
        assert results[-1] == example.expected.last_number


def test_a_check_at_high_effort_confirms() -> None:
    for example in drawn(arithmetic, 1500):
        assert example.prompt.messages[0].content.effort is not None  # type: ignore[union-attr]
        work = thought(example)
        assert ("check" in work) == (example.prompt.messages[0].content.effort is Effort.HIGH)  # type: ignore[union-attr]
        roots = re.findall(r"^(\d+) and (\d+): equal\.", work, re.MULTILINE)
        assert all(left == right for left, right in roots)


# Answers


def test_sums_differences_and_products_are_right() -> None:
    for example in drawn(arithmetic, 3000):
        _, formula = example.key.split(" ", 1)
        assert str(eval(formula)) == example.expected.last_number
        assert reply(example).endswith(f"= {example.expected.last_number}.")


def test_what_is_typed_is_what_is_answered() -> None:
    """The formula in the question, evaluated, is the answer."""
    found = 0
    for example in drawn(arithmetic, 3000):
        question = said(example.prompt)[-1][1].replace("×", "*").replace("x", "*").replace("−", "-")
        for formula in re.findall(r"(?<![\d.])-?\d+(?: ?[+*-] ?\d+)+(?!\d)", question):
            assert eval(formula) == int(str(example.expected.last_number)), question
            found += 1
    assert found > 900


def test_small_numbers_are_spelled() -> None:
    assert [arithmetic.in_words(n) for n in (0, 13, 20, 47, 99)] == [
        "zero", "thirteen", "twenty", "forty-seven", "ninety-nine",
    ]  # fmt: skip


def test_conversions_are_right() -> None:
    known = {(c.source.name, c.target.name) for c in conversions.TIMES + conversions.CUSTOMARY}
    assert known - {("degrees Celsius", "degrees Fahrenheit")} == set(FACTORS)
    for example in drawn(conversions, 2000):
        assert example.expected.numbers is not None
        x, y = map(Fraction, example.expected.numbers)
        pair = next(
            (a, b)
            for a, b in [*FACTORS, *((b, a) for a, b in FACTORS), ("degrees Celsius", "degrees Fahrenheit")]
            if example.key.endswith(f" {a} {b}")
        )
        if pair in FACTORS:
            assert y == x * FACTORS[pair], example.key
        elif pair[0] == "degrees Celsius":
            assert y == x * Fraction("1.8") + 32
        else:
            assert y == x / FACTORS[pair[1], pair[0]], example.key


def test_lists_are_right() -> None:
    for example in drawn(lists, 3000):
        expected, items = example.expected, re.split(r", ", example.key.split(" ", 2)[2])
        kind = example.detail
        if kind == "sort numbers":
            _, _, down, body = example.key.split(" ", 3)
            values = [int(item) for item in body.split(", ")]
            assert [int(item) for item in expected.items or ()] == sorted(values, reverse=down == "True")
        elif kind == "sort words":
            assert list(expected.items or ()) == sorted(items)
        elif kind == "count":
            assert expected.last_number == str(len(items))
        elif kind == "count equal":
            wanted, _, first = items[0].partition(" ")
            assert expected.last_number == str([first, *items[1:]].count(wanted))
        elif kind == "count above":
            limit, _, first = items[0].partition(" ")
            over = [item for item in [first, *items[1:]] if int(item) > int(limit)]
            assert expected.numbers == (str(len(over)), limit)
        else:
            best = max if kind == "largest" else min
            assert expected.last_number == str(best(map(int, items)))


def test_extracted_values_stand_in_the_text() -> None:
    for example in drawn(extraction, 2000):
        found = json.loads(reply(example))
        assert found == example.expected.json
        question = said(example.prompt)[-1][1]
        for name, value in found.items():
            assert name in question
            assert value is None or str(value) in question


def test_follow_ups_answer_from_the_last_reply() -> None:
    for example in drawn(follow_ups, 2000):
        before = said(example.prompt)[-2]
        assert before[0] == Role.ASSISTANT
        if example.detail == "arithmetic":
            a, sign, b = re.fullmatch(r"(-?\d+) ([+−×]) \(?(-?\d+)\)? = .*", reply(example)).groups()  # type: ignore[union-attr]
            number = before[1].rstrip(".").split("= ")[-1]
            question = said(example.prompt)[-1][1]
            assert a == number or a in question
            value = operation(int(a), {"+": "+", "−": "-", "×": "*"}[sign], int(b))
            assert example.expected.last_number == str(value)
        elif example.detail == "lists" and example.expected.items:
            given, answered = before[1].split(", "), list(example.expected.items)
            assert answered == given[::-1] or set(answered) > set(given) or len(answered) == len(given) + 1


def test_the_answer_has_what_it_must_have() -> None:
    for module in (about, limits):
        for example in drawn(module, 1500):
            assert example.expected.contains
            assert all(part.lower() in reply(example).lower() for part in example.expected.contains)


def test_a_reference_to_nothing_is_never_given_a_history() -> None:
    alone = [example for example in drawn(limits, 3000) if example.alone]
    assert len(alone) > 50
    mixed = list(with_histories([*drawn(arithmetic, 20), *alone], seed=0))[20:]
    assert mixed == alone


# Efforts


@pytest.mark.parametrize("module", MODULES)
def test_each_effort_thinks_longer_than_the_one_before(module: Any) -> None:
    for seed in range(150):
        same = [next(module.draw(AtEffort(seed, effort))) for effort in EFFORTS]
        assert len({said(example.prompt) for example in same}) == 1
        low, medium, high = (len(re.findall(r"\d|\w+|[^\w\s]", thought(example))) for example in same)
        assert low < medium < high, [thought(example) for example in same]
        assert len({reply(example) for example in same}) == 1


# Turns


@pytest.mark.parametrize("module", MODULES)
def test_a_turn_is_a_thought_and_an_answer(module: Any) -> None:
    for example in drawn(module, 300):
        *thoughts, last = example.target
        assert (last.role, last.channel) == (Role.ASSISTANT, Channel.FINAL)
        assert [m.channel for m in thoughts] in ([], [Channel.ANALYSIS])
        assert all(str(m.content).strip() == m.content != "" for m in example.target)
        assert isinstance(example.prompt.messages[0].content, SystemContent)
        assert example.opens


# The stream


def test_a_seed_gives_the_same_examples_and_another_seed_others() -> None:
    def first(seed: int) -> list[Example]:
        return list(islice(examples(seed, Split.TRAIN), 300))

    assert first(3) == first(3)
    assert first(3) != first(4)
    assert pickle.loads(pickle.dumps(first(3))) == first(3)


def test_every_skill_is_drawn_and_a_choice_of_skills_is_kept() -> None:
    assert {example.skill for example in islice(examples(0, Split.TRAIN), 2000)} == set(SKILLS)
    some = islice(examples(0, Split.TRAIN, ("about", "lists")), 200)
    assert {example.skill for example in some} == {"about", "lists"}


@pytest.fixture(scope="module")
def trained() -> list[Example]:
    return list(islice(examples(1, Split.TRAIN), 25_000))


@pytest.fixture(scope="module")
def examined() -> list[Example]:
    return list(islice(examples(2, Split.HELD_OUT), 800))


def test_no_held_out_prompt_is_ever_trained_on(trained: list[Example], examined: list[Example]) -> None:
    learnt = {said(example.prompt) for example in trained}
    assert len(learnt) > 15_000
    assert learnt.isdisjoint(said(example.prompt) for example in examined)


def test_training_solves_no_held_out_problem_in_passing(
    trained: list[Example], examined: list[Example]
) -> None:
    """A held-out product is not computed in a follow-up either, nor shown as an earlier turn."""
    problems = {example.key for example in examined}
    assert all(split_of(key) is Split.HELD_OUT for key in problems)
    for example in trained:
        assert not problems.intersection((example.key, *example.parts))
    inside = [
        e for e in examined if e.skill in ("follow_ups", "arithmetic") and e.detail in ("chain", "arithmetic")
    ]
    assert inside
    assert all(example.parts for example in inside)


def test_the_same_words_are_always_answered_alike(trained: list[Example]) -> None:
    answers: dict[Any, Any] = {}
    for example in trained:
        shown = (example.prompt.messages[0].content.effort, said(example.prompt), example.prompt.messages[1])  # type: ignore[union-attr]
        target = [message.content for message in example.target]
        assert answers.setdefault(repr(shown), target) == target


def test_held_out_is_about_one_in_thirty_two() -> None:
    keys = [f"arithmetic {a} + {b}" for a in range(100) for b in range(a, 100)]
    share = sum(split_of(key) is Split.HELD_OUT for key in keys) / len(keys)
    assert 1 / 40 < share < 1 / 25


def test_numbers_in_working_stay_small(trained: list[Example]) -> None:
    """No line asks for more than one column at a time: a step's operands have at most two digits."""

    def steps() -> Iterator[str]:
        for example in trained[:4000]:
            if example.skill in ("arithmetic", "follow_ups"):
                yield from re.findall(r"(?<![\d.])\d+(?:[+*-]\d+)+=\d+", thought(example))

    for step in steps():
        assert max(map(len, re.findall(r"\d+", step.split("=")[0]))) <= 2, step


def test_a_field_that_is_missing_is_missing_under_every_name() -> None:
    missing = 0
    for example in drawn(extraction, 3000):
        fields = json.loads(reply(example))
        names = {name for name, value in fields.items() if value is not None}
        for name in fields.keys() - names:
            missing += 1
            assert not (name == "customer" and names & {"name", "guest", "author"})
            assert not (name == "price" and "amount" in names)
    assert 200 < missing < 500
