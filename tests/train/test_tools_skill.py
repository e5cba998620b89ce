"""The skill of calling tools: what the model is taught is right, endless and split."""

from __future__ import annotations

import json
import random
import re

import jsonschema
import pytest

from mosso.core.json import JsonObject
from mosso.harmony.conversation import Channel, DeveloperContent, FunctionTool, Role
from mosso.train.skills import tools
from mosso.train.skills.base import Example, Expected, Split, split_of
from mosso.train.skills.tool_functions import CLASSIC, POOL, compose
from mosso.train.skills.tool_results import answer_from, statement

PUBLIC = {
    "get_weather",
    "get_current_weather",
    "get_time",
    "calculator",
    "add",
    "multiply",
    "search",
    "send_email",
    "get_stock_price",
    "convert_currency",
    "create_event",
}


def drawn(seed: int, number: int) -> list[list[Example]]:
    rng = random.Random(seed)
    return [list(tools.draw(rng)) for _ in range(number)]


@pytest.fixture(scope="module")
def dialogues() -> list[list[Example]]:
    return drawn(1, 4000)


def offered(example: Example) -> dict[str, FunctionTool]:
    content = example.prompt.messages[1].content
    assert isinstance(content, DeveloperContent)
    return {tool.name: tool for namespace in content.namespaces for tool in namespace.tools}


def test_a_seed_gives_the_same_examples() -> None:
    assert drawn(7, 300) == drawn(7, 300)
    assert drawn(7, 300) != drawn(8, 300)


def test_calls_fit_the_schema_of_an_offered_function(dialogues: list[list[Example]]) -> None:
    for example in (example for dialogue in dialogues for example in dialogue):
        functions = offered(example)
        assert 1 <= len(functions) <= 3
        if example.expected.call is None:
            continue
        name, arguments = example.expected.call
        parameters = functions[name].parameters
        assert parameters is not None
        jsonschema.validate(arguments, {"additionalProperties": False, **parameters})
        call = example.target[-1]
        assert json.loads(str(call.content)) == arguments
        assert list(arguments) == [key for key in properties(parameters) if key in arguments]
        assert (call.recipient, call.channel, call.content_type) == (
            f"functions.{name}",
            Channel.COMMENTARY,
            "<|constrain|>json",
        )


def properties(schema: JsonObject) -> JsonObject:
    value = schema["properties"]
    assert isinstance(value, dict)
    return value


def test_arguments_stand_in_what_the_user_wrote(dialogues: list[list[Example]]) -> None:
    """A string that is no enum's value is copied; only names of companies and currencies are translated."""
    kept = total = 0
    for example in (dialogue[0] for dialogue in dialogues if dialogue[0].expected.call):
        assert example.expected.call is not None
        said = " ".join(
            str(message.content) for message in example.prompt.messages if message.role is Role.USER
        )
        for value in example.expected.call[1].values():
            if isinstance(value, str):
                total += 1
                kept += value in said
    assert kept > 0.9 * total


def test_every_expected_value_stands_in_the_answer(dialogues: list[list[Example]]) -> None:
    for example in (example for dialogue in dialogues for example in dialogue):
        if example.expected.call is not None:
            continue
        text = str(example.target[-1].content)
        assert example.target[-1].channel == Channel.FINAL
        assert example.expected != Expected()
        for part in example.expected.contains:
            assert re.search(rf"(?<![\w.]){re.escape(part.lower())}(?!\w)", text.lower()), (part, text)


def test_the_turns_of_a_dialogue_follow_each_other(dialogues: list[list[Example]]) -> None:
    for dialogue in dialogues:
        opening, *later = dialogue
        assert opening.opens
        assert [expected for _, expected in opening.script] == [example.expected for example in later]
        for before, (result, _), example in zip(dialogue, opening.script, later, strict=False):
            assert (example.key, example.detail, example.script) == (opening.key, opening.detail, ())
            *_, call, given = example.prompt.messages
            assert call == before.target[-1]
            assert (given.role, given.content, given.name) == (Role.TOOL, result, call.recipient)
            assert (given.channel, given.recipient) == (Channel.COMMENTARY, Role.ASSISTANT)
            assert not example.opens


def test_every_kind_of_dialogue_is_drawn_and_ends_in_an_answer(dialogues: list[list[Example]]) -> None:
    assert {dialogue[0].detail for dialogue in dialogues} == set(tools.KINDS)
    for dialogue in dialogues:
        assert dialogue[-1].expected.call is None
        calls = len(dialogue) - 1
        assert calls == {"none fits": 0, "direct": 0, "two calls": min(max(calls, 2), 3)}.get(
            dialogue[0].detail, 1
        )


def test_the_splits_share_no_problem(dialogues: list[list[Example]]) -> None:
    keys = {split: {d[0].key for d in dialogues if split_of(d[0].key) is split} for split in Split}
    assert all(keys.values())
    assert keys[Split.TRAIN].isdisjoint(keys[Split.HELD_OUT])
    for example in (dialogue[0] for dialogue in dialogues):
        inside = {"two calls": len(example.script), "follow-up": 1, "direct": len(example.parts)}
        assert len(example.parts) == inside.get(example.detail, 0)
    assert len(keys[Split.TRAIN] | keys[Split.HELD_OUT]) > 0.85 * len(dialogues)


def test_the_public_classics_are_there_and_other_names_are_endless(dialogues: list[list[Example]]) -> None:
    known = {variants[0].name for variants in CLASSIC + POOL}
    assert known >= PUBLIC
    assert len(CLASSIC + POOL) >= 60
    called = [example.expected.call[0] for (example, *_) in dialogues if example.expected.call]
    assert set(called) >= PUBLIC
    rng = random.Random(3)
    composed = [compose(rng).name for _ in range(500)]
    assert len(set(composed)) > 400
    assert not set(composed) & known


def test_thinking_grows_with_effort_and_is_short(dialogues: list[list[Example]]) -> None:
    for example in (example for dialogue in dialogues for example in dialogue):
        characters = sum(
            len(str(message.content)) for message in example.prompt.messages[2:] + example.target
        )
        characters += len(json.dumps([tool.parameters for tool in offered(example).values()])) + 300
        assert characters < 4 * 768
        if example.expected.call is not None:
            effort = example.prompt.messages[0].content.effort  # type: ignore[union-attr]
            assert (len(example.target) == 1) == (effort == "low")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ('{"temperature": 18, "condition": "rain"}', "The temperature is 18 and the condition is rain."),
        (
            '{"a_b": -1.50,"isOpen": true, "c": null}',
            "The a b is -1.50, the is open is yes and the c is none.",
        ),
        ("633", "The result is 633."),
        ("sunny", "The result is sunny."),
        ("It is sunny in Oslo", "It is sunny in Oslo."),
        ("Done, it works!", "Done, it works!"),
        ('["a", "b", "c"]', "The results are a, b and c."),
        ('["a"]', "The result is a."),
        ("{}", "There are no results."),
        ("", "There are no results."),
        ("[]", "There are no results."),
        ('{"items": []}', "The items are none."),
        ('{"error": "City not found."}', "The tool failed: City not found."),
        ("Error: timeout", "The tool failed: timeout."),
        ('"light rain"', "The result is light rain."),
    ],
)
def test_any_result_becomes_an_answer(result: str, said: str) -> None:
    assert answer_from(result) == said
    assert statement(result)[1:] == said[1:]


def test_a_question_is_held_out_whether_or_not_a_tool_fits_it() -> None:
    same = 0
    for seed in range(200):
        fitting, without = (
            tools.draw_dialogue(random.Random(seed), kind) for kind in ("one call", "none fits")
        )
        if fitting.prompt.messages[-1] == without.prompt.messages[-1]:
            same += 1
            assert fitting.key == without.key
    assert same > 100
