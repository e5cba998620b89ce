"""Turns that move together move as each would alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.core.constraints import Call, Grammar, GrammarKind, Turn, TurnConstraint
from mosso.core.errors import EngineError

SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, '{"enum": ["x", "yy", 12]}')
CALL = Call("functions.f", SCHEMA)
TURNS = (
    Turn(TurnConstraint(SCHEMA, (CALL,))),
    Turn(TurnConstraint(SCHEMA), thinking_budget=2),
    Turn(TurnConstraint(Grammar(GrammarKind.TEXT), (CALL,)), thinking_budget=0),
    Turn(TurnConstraint(None, (CALL,))),
    Turn(None, ("functions.f",), 3),
)
FINAL = "<|channel|>final<|message|>"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 30), chosen=st.lists(st.sampled_from(TURNS), min_size=1, max_size=6))
def test_as_each_would_alone(constrainer, seed, chosen):
    rng = random.Random(seed)
    alone = [constrainer.begin(turn, []) for turn in chosen]
    company = [constrainer.begin(turn, []) for turn in chosen]
    masks = [turn.mask() for turn in company]
    assert masks == [turn.mask() for turn in alone]
    for _ in range(40):
        those = sorted(rng.sample(range(len(chosen)), rng.randint(1, len(chosen))))
        tokens = [rng.choice(permitted(masks[at])) for at in those]
        moved = constrainer.advance([company[at] for at in those], tokens)
        for at, token, mask in zip(those, tokens, moved, strict=True):
            alone[at].consume(token)
            expected = alone[at].mask()
            assert (None if mask is None else bytes(mask)) == expected
            assert company[at].slack() == alone[at].slack()
            masks[at] = mask


def permitted(mask) -> list[int]:
    return list(range(512)) if mask is None else [i for i in range(512) if mask[i // 8] >> i % 8 & 1]


def test_one_that_fails_leaves_the_others_alone(constrainer, ids):
    turns = [constrainer.begin(Turn(TurnConstraint(SCHEMA)), ids(FINAL)) for _ in range(3)]
    x = ids("x")[0]
    first, failed, last = constrainer.advance(turns, [ids('"')[0], x, ids("1")[0]])
    assert isinstance(failed, EngineError)
    assert "the constraint failed" in failed.message
    assert x in permitted(first)
    assert permitted(last) == ids("2")
    with pytest.raises(EngineError):
        turns[1].mask()


def test_masks_outlive_what_comes_later(constrainer, ids):
    """A device may read a mask while the next one is made."""
    turn = constrainer.begin(Turn(TurnConstraint(SCHEMA)), ids(FINAL))
    (mask,) = constrainer.advance([turn], ids("1"))
    kept = bytes(mask)
    constrainer.advance([turn], ids("2"))
    assert bytes(mask) == kept


def test_nobody(constrainer):
    assert constrainer.advance([], []) == []
