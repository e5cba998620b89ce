"""How thinking is ended: never amid a character, in a legal header, and for good."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.core.constraints import Call, Grammar, GrammarKind, Turn, TurnConstraint
from mosso.core.errors import RequestError
from mosso.grammar import HarmonyConstrainer
from mosso.harmony.parser import StreamParser, parse

THINKING = "<|channel|>analysis<|message|>"
SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, '{"enum": ["x", "y"]}')
FORMED = TurnConstraint(SCHEMA, (Call("functions.f", SCHEMA),))
TEXT = TurnConstraint(Grammar(GrammarKind.TEXT), (Call("functions.f", SCHEMA),))


def free(budget: int, *recipients: str) -> Turn:
    return Turn(None, recipients, budget)


def test_a_free_turn_is_free_until_its_budget_is_used_up(allowed):
    assert allowed(free(3), "") is None
    assert allowed(free(3), THINKING + "ab") is None
    assert allowed(free(3), THINKING + "abc") == {"<|end|>"}
    assert allowed(free(3), THINKING + "abc<|end|>") == {"<|start|>"}
    assert allowed(free(3), THINKING + "abc<|end|><|start|>assistant") == {"<|channel|>"}
    assert allowed(free(3), THINKING + "abc<|end|><|start|>assistant<|channel|>") == {"f", "final", "c"}
    assert allowed(free(3), THINKING + "abc<|end|><|start|>assistant<|channel|>final") == {"<|message|>"}
    assert allowed(free(3), THINKING + "abc<|end|><|start|>assistant<|channel|>final<|message|>") is None


def test_thinking_stays_over(allowed):
    spoken = THINKING + "abc<|end|><|start|>assistant<|channel|>commentary<|message|>Now"
    assert allowed(free(3), spoken) is None
    assert allowed(free(3), spoken + "<|end|>") == {"<|start|>"}
    assert allowed(free(3), spoken + "<|end|><|start|>assistant<|channel|>") == {"f", "final", "c"}
    assert allowed(free(3), spoken + "<|channel|>") == {"f", "final", "c"}, "also behind a stray one"


def test_a_final_message_is_the_last_one(allowed):
    spoken = "<|channel|>final<|message|>Yes."
    assert allowed(free(0), spoken) is None
    assert allowed(free(0), spoken + "<|end|>") == {"<|return|>"}
    assert allowed(free(0), spoken + "<|end|><|return|>") == {"<|start|>"}, "nobody stops there"
    assert allowed(free(1), spoken + "<|end|>") is None, "it may think yet"


def test_budgets_count_all_thoughts(allowed):
    again = "<|end|><|start|>assistant" + THINKING
    assert allowed(free(3), THINKING + "ab" + again) is None
    assert allowed(free(3), THINKING + "ab" + again + "c") == {"<|end|>"}


def test_no_thinking_at_all(allowed):
    assert allowed(free(0), "") == {"<|channel|>"}
    assert allowed(free(0, "functions.f"), "") == {"<|channel|>", " "}
    assert allowed(free(0), "<|channel|>") == {"f", "final", "c"}


def test_only_who_was_offered_is_called(allowed):
    turn = free(0, "functions.f", "python")
    assert allowed(turn, "<|channel|>commentary to=") == {"f", "p"}
    assert allowed(turn, "<|channel|>commentary to=functions.f") == {" ", "<|message|>"}
    assert allowed(free(0), "<|channel|>commentary") == {"<|message|>"}


@pytest.mark.parametrize("form", [None, FORMED, TEXT])
def test_a_header_that_was_under_way_opens_and_ends_a_thought(allowed, form):
    turn = Turn(form, (), 0)
    assert allowed(turn, "<|channel|>analysis") == {"<|message|>"}
    assert allowed(turn, THINKING) == {"<|end|>"}


def test_a_formed_turn_keeps_its_form(allowed):
    turn = Turn(FORMED, (), 3)
    assert allowed(turn, "<|channel|>") == {"a", "analysis", "f", "final", "c"}
    assert len(allowed(turn, THINKING + "ab")) > 100
    assert allowed(turn, THINKING + "abc") == {"<|end|>"}
    assert allowed(turn, THINKING + "abc<|end|><|start|>assistant<|channel|>final<|message|>") == {'"'}
    assert allowed(Turn(FORMED, (), 0), "<|channel|>") == {"f", "final", "c"}
    again = Turn(TEXT, (), 1)
    assert allowed(again, THINKING + "a<|end|><|start|>assistant<|channel|>") == {"f", "final", "c"}
    over = THINKING + 'abc<|end|><|start|>assistant<|channel|>final<|message|>"x"<|return|>'
    assert allowed(turn, over) is None


@pytest.mark.parametrize("form", [None, FORMED])
def test_a_character_is_completed_first(constrainer, ids, tokenizer, form):
    euro = "€".encode()
    said = [*ids(THINKING), *(tokenizer.encode("€"))]
    assert [tokenizer.token_bytes(token) for token in said[-3:]] == [euro[i : i + 1] for i in range(3)]
    for cut in (1, 2):
        turn = constrainer.begin(Turn(form, (), 1), said[: len(said) - cut])
        after = [i for i in range(512) if turn.mask()[i // 8] >> i % 8 & 1]
        assert all(0x80 <= tokenizer.token_bytes(i)[0] < 0xC0 for i in after)
        assert said[-cut] in after
    turn = constrainer.begin(Turn(form, (), 1), said)
    assert turn.mask() == constrainer.begin(Turn(form, (), 0), ids(THINKING)).mask()


def test_slack(constrainer, ids):
    def slack(turn: Turn, text: str) -> int:
        return constrainer.begin(turn, ids(text)).slack()

    assert slack(free(5), "") == 5
    assert slack(free(5), THINKING + "abc") == 2
    assert slack(free(3), THINKING + "abc") == 0
    assert slack(free(3), THINKING + "abc<|end|><|start|>assistant<|channel|>final<|message|>") == 2
    assert slack(Turn(FORMED, (), 3), "") == slack(Turn(FORMED), "") == 0
    whole = '<|channel|>final<|message|>"x"<|return|>'
    assert slack(Turn(FORMED), whole) > 1 << 20


def test_what_nobody_announced(allowed):
    """Malformed streams: whatever they say, a thought in them ends."""
    assert allowed(free(0), "<|channel|>Analysis {") == {"<|end|>"}
    assert allowed(free(2), "<|channel|>analysis" + " x" * 12) == {"<|end|>"}
    assert allowed(free(1), "<|channel|>analysis<|message|><|constrain|>") is None, "no word of thinking"
    assert allowed(free(0), "just text") is None
    assert allowed(free(0), "<|start|>user<|message|>hi<|end|>text<|message|>") is None
    assert allowed(free(0), "<|channel|>analysis to=python") is None, "a call, no thought"


def test_a_vocabulary_without_control_tokens(tmp_path, folder):
    plain = json.loads((folder / "tokenizer.json").read_text())
    for token in plain["added_tokens"]:
        token["content"] = token["content"].replace("channel", "chanel")
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    bare = HarmonyConstrainer(tmp_path, 512)
    with pytest.raises(RequestError, match=r"Thinking cannot be ended.*channel"):
        bare.prepare(free(1))
    with pytest.raises(RequestError):
        bare.begin(free(1), [])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_stream_obeys(constrainer, tokenizer, data):
    """A model that draws at random from what it may: no thinking beyond the budget, no lost byte."""
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    budget = data.draw(st.integers(0, 12))
    form = data.draw(st.sampled_from([None, FORMED, TEXT]))
    flip = data.draw(st.one_of(st.none(), st.integers(0, 30)))  # when the thinking is ended from outside
    turn = Turn(form, ("functions.f",), budget if flip is None else 1 << 20)
    control = tokenizer.control
    likely = [control.channel, control.message, control.start, control.end, *tokenizer.encode("analysis"),
              *tokenizer.encode("€ö"), *tokenizer.encode("assistant")]  # fmt: skip
    moving, said = constrainer.begin(turn, []), []
    before = None
    for step in range(80):
        if step == flip:
            before = thinking_tokens(tokenizer, said)
            moving = constrainer.begin(Turn(form, ("functions.f",), 0), said)
        mask = moving.mask()
        if mask is not None and moving.slack() > 2:
            pytest.fail("a mask where none was needed")
        may = range(512) if mask is None else [i for i in range(512) if mask[i // 8] >> i % 8 & 1]
        assert may, "something may always come"
        liked = [token for token in likely if token in may]
        said.append(rng.choice(liked) if liked and rng.random() < 0.7 else rng.choice(may))
        moving.consume(said[-1])
        if said[-1] in (control.return_, control.call):
            break
    most = budget if flip is None else before if before is not None else len(said)
    assert thinking_tokens(tokenizer, said) <= most + 3, "three bytes complete a character"
    fed = b"".join(tokenizer.token_bytes(token) for token in said if not tokenizer.is_control(token))
    assert told(tokenizer, said) == fed


def thinking_tokens(tokenizer, tokens) -> int:
    """Content tokens of analysis messages, as the API counts them."""
    parser, thinking, count = StreamParser(tokenizer), False, 0
    for token in tokens:
        if thinking and not tokenizer.is_control(token):
            count += 1
        for event in parser.feed(token):
            match type(event).__name__:
                case "MessageStarted":
                    thinking = (
                        event.channel == "analysis" and not event.recipient and event.role == "assistant"
                    )
                case "MessageEnded":
                    thinking = False
    return count


def told(tokenizer, tokens) -> bytes:
    parser = StreamParser(tokenizer)
    events = [event for token in tokens for event in parser.feed(token)] + parser.finish()
    return b"".join(getattr(event, "raw", getattr(event, "header", b"")) for event in events)


def test_a_whole_stream(constrainer, ids, tokenizer):
    """Golden: a model that would think for ever says this, token by token."""
    moving = constrainer.begin(free(4), [])
    would = iter(ids(THINKING + "one two three<|end|>"))
    wishes = iter(ids("<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"))
    said: list[int] = []
    while not said or said[-1] != tokenizer.control.return_:
        mask = moving.mask()
        spent = mask is not None or len(said) > len(ids(THINKING)) + 4
        said.append(next(wishes) if spent else next(would))
        if mask is not None:
            assert mask[said[-1] // 8] >> said[-1] % 8 & 1
        moving.consume(said[-1])
    first, second = parse(tokenizer, said)
    assert (first.channel, first.text) == ("analysis", tokenizer.decode(ids("one two three")[:4]))
    assert (second.channel, second.text) == ("final", "Yes.")
