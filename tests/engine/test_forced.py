"""Tokens that a form forces: told at once, computed as a stretch, and those that one a step would give.

One a step is had by forbidding a constraint to be ahead of its row (`one_a_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosso.core.constraints import Call, Grammar, GrammarKind, Turn, TurnConstraint
from mosso.core.errors import EngineError
from mosso.core.requests import BACKGROUND, FinishReason, Request
from mosso.engine import constrained as constrained_rows
from mosso.engine.constrained import MOST_FORCED, only, only_token
from mosso.engine.messages import Abort, EndThinking, Submit
from mosso.engine.table import RowTable

from .random_schemas import Schemas
from .test_constrained import ANSWER, CALL, CONTROL, STOPS, TOKENIZER, asks, constrained, schema_of  # noqa: F401

NAMES = {
    "type": "object",
    "properties": {
        "the customer's identification number": {"enum": [1, 22]},
        "the address that it is shipped to": {"enum": ["the first one", "the second one"]},
    },
    "required": ["the customer's identification number", "the address that it is shipped to"],
    "additionalProperties": False,
}
"""The toy vocabulary spells most words byte by byte: the names are runs of some thirty tokens."""
NAMED = TurnConstraint(schema_of(NAMES))


@pytest.fixture
def one_a_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What `run` gives while no constraint goes on by itself."""

    def make(run: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(constrained_rows, "MOST_FORCED", 0)
            return run()

    return make


def outcomes(bench: Any, requests: Sequence[Request]) -> list[tuple[list[int], FinishReason | None]]:
    found = bench.run_all(requests)
    return [(found[request.id].tokens, found[request.id].finish) for request in requests]


def given_tokens(bench: Any) -> list[tuple[int, ...]]:
    """The stretches of forced tokens that the plans brought."""
    return [work.tokens for plan in bench.runner.plans for work in plan.work if work.tokens]


def named(name: str, **sampling: object) -> Request:
    return asks(name, NAMED, **({"seed": len(name), "temperature": 0.7} | sampling))


@pytest.mark.parametrize("first", range(0, 32, 8))
def test_random_schemas_give_the_tokens_of_one_a_step(constrained, one_a_step, first):  # noqa: F811
    forms = [TurnConstraint(schema_of(Schemas(seed).make())) for seed in range(first, first + 8)]
    requests = [
        asks(f"{number}.{seed}", form, seed=seed, max_tokens=200, temperature=0.5 + seed)
        for number, form in enumerate(forms)
        for seed in range(2)
    ]

    def run() -> tuple[Any, list[Any]]:
        bench = constrained()
        return bench, outcomes(bench, requests)

    (jumping, found), (walking, expected) = run(), one_a_step(run)
    assert found == expected
    assert given_tokens(jumping)
    assert not given_tokens(walking)
    assert len(jumping.runner.plans) <= len(walking.runner.plans)


def test_all_kinds_of_rows_give_the_tokens_of_one_a_step(constrained, one_a_step):  # noqa: F811
    free = TurnConstraint(Grammar(GrammarKind.TEXT), (Call("functions.f", schema_of(NAMES)),))
    requests = [
        named("greedy", temperature=0.0),
        named("penalized", presence_penalty=1.0, repetition_penalty=1.5, frequency_penalty=0.3),
        named("cut off", top_k=3, top_p=0.8, min_p=0.1),
        named("asked", logprobs=2),
        asks("call", CALL),
        asks("or text", free, max_tokens=150),
        asks("unformed", None, max_tokens=40),
        *(replace(named(f"budget {budget}"), thinking_budget=budget) for budget in (0, 1, 5)),
        *(replace(asks(f"free {budget}", None, max_tokens=60), thinking_budget=budget) for budget in (0, 4)),
    ]

    def run(**sizes: object) -> Any:
        return outcomes(constrained(**sizes), requests)

    expected = one_a_step(run)
    assert run() == expected
    assert run(token_budget=7) == expected
    assert [outcomes(constrained(), [request])[0] for request in requests] == expected


def test_a_run_takes_one_step(constrained):  # noqa: F811
    bench = constrained()
    found = bench.run_all([request := named("a")])[request.id]
    assert max(map(len, given_tokens(bench))) > 20
    assert len(bench.runner.plans) < len(found.tokens) / 2
    assert max(len(event.tokens) for event in found.events) > 20


def test_whoever_wants_log_probabilities_gets_one_for_each_token(constrained):  # noqa: F811
    bench = constrained()
    found = bench.run_all([request := named("a", logprobs=1)])[request.id]
    assert not given_tokens(bench)
    entries = [entry for event in found.events for entry in event.logprobs]
    assert [entry.token for entry in entries] == found.tokens


def test_max_tokens_cuts_a_run_at_each_place(constrained):  # noqa: F811
    whole = constrained().run_all([named("a")])["a"].tokens
    limits = range(1, len(whole))
    requests = [replace(named("a", max_tokens=limit), id=str(limit)) for limit in limits]
    bench = constrained()
    assert outcomes(bench, requests) == [(whole[:limit], FinishReason.LENGTH) for limit in limits]
    assert bench.stats.generated_tokens == sum(limits)


def test_a_stop_id_ends_a_run_at_each_place(constrained):  # noqa: F811
    whole = constrained().run_all([named("a")])["a"].tokens
    wanted = sorted(set(whole))
    requests = [replace(named("a", stop_ids=STOPS | {token}), id=str(token)) for token in wanted]
    found = outcomes(constrained(), requests)
    assert found == [(whole[: whole.index(token) + 1], FinishReason.STOP) for token in wanted]


def test_preempted_amid_runs(constrained):  # noqa: F811
    requests = [replace(named("a" * n, max_tokens=110), priority=n % 3) for n in range(1, 7)]
    alone = [outcomes(constrained(), [request])[0] for request in requests]
    tight = constrained(full_pages=16, window_pages=40, max_context=128)
    for request in reversed(requests):  # better ones come later
        tight.inbox.put(Submit(request))
        for _ in range(6):
            tight.loop.turn()
    while any(tight.outcomes[request.id].finish is None for request in requests):
        tight.loop.turn()
    assert tight.stats.preemptions > 1
    assert [(tight.outcomes[r.id].tokens, tight.outcomes[r.id].finish) for r in requests] == alone
    assert given_tokens(tight)


def test_an_engine_that_died_amid_a_run_is_replaced(constrained):  # noqa: F811
    """As the supervisor does it: the request comes again with the tokens that were told."""
    whole = constrained().run_all([named("a")])["a"].tokens
    cuts = range(1, len(whole))
    parts = [replace(named("a"), id=str(cut), generated=tuple(whole[:cut])) for cut in cuts]
    assert outcomes(constrained(), parts) == [(whole[cut:], FinishReason.STOP) for cut in cuts]


@pytest.mark.parametrize("turns", range(8))
def test_aborted_amid_a_run(constrained, turns):  # noqa: F811
    """The others do not notice, nor does the row's next request."""
    bench, after = constrained(max_rows=2), asks("next", None, max_tokens=10)
    alone = outcomes(constrained(), [named("other"), after])
    for request in (named("a"), named("other")):
        bench.inbox.put(Submit(request))
    while not bench.outcomes["a"].tokens:
        bench.loop.turn()
    for _ in range(turns):
        bench.loop.turn()
    bench.inbox.put(Abort("a"))
    bench.inbox.put(Submit(after))
    while any(bench.outcomes[name].finish is None for name in ("a", "other", "next")):
        bench.loop.turn()
    assert bench.outcomes["a"].finish is FinishReason.ABORT
    assert [(bench.outcomes[n].tokens, bench.outcomes[n].finish) for n in ("other", "next")] == alone


@pytest.mark.parametrize("turns", range(12))
def test_thinking_that_is_ended_amid_a_run(constrained, turns):  # noqa: F811
    """What was told stays told, what follows is in the form and thinks no more."""
    request = named("a", logit_bias=tuple((token, -90.0) for token in (CONTROL.end, *STOPS)))
    opening = (CONTROL.channel, *TOKENIZER.encode("analysis"), CONTROL.message)
    for generated in ((), opening, (*opening, *TOKENIZER.encode("so"))):
        bench = constrained()
        bench.inbox.put(Submit(replace(request, generated=generated)))
        while not bench.outcomes["a"].tokens:
            bench.loop.turn()
        for _ in range(turns):
            bench.loop.turn()
        told = list(bench.outcomes["a"].tokens)
        bench.inbox.put(EndThinking("a"))
        while bench.outcomes["a"].finish is None:
            bench.loop.turn()
        tokens = bench.outcomes["a"].tokens
        assert tokens[: len(told)] == told
        assert bench.outcomes["a"].finish is FinishReason.STOP


class Script:
    """A constrainer: `masks` says what may follow the tokens so far, and raises what fails."""

    def __init__(self, masks: Callable[[tuple[int, ...]], set[int] | None]) -> None:
        self.masks = masks

    def prepare(self, turn: Turn) -> None:
        pass

    def begin(self, turn: Turn, tokens: Sequence[int]) -> Scripted:
        return Scripted(self.masks, tuple(tokens))


class Scripted:
    def __init__(self, masks: Callable[[tuple[int, ...]], set[int] | None], said: tuple[int, ...]) -> None:
        self.masks, self.said = masks, said

    def mask(self) -> bytes | None:
        allowed = self.masks(self.said)
        return None if allowed is None else sum(1 << token for token in allowed).to_bytes(64, "little")

    def slack(self) -> int:
        return 0

    def consume(self, token: int) -> None:
        allowed = self.masks(self.said)
        assert allowed is None or token in allowed, "a token that its mask did not have"
        self.said += (token,)

    def end_thinking(self) -> None:
        pass


def scripted(*lengths: int) -> Script:
    """Runs of such lengths, each behind a token that is chosen; then free."""
    forced = {
        sum(lengths[:number]) + number + 1 + place
        for number in range(len(lengths))
        for place in range(lengths[number])
    }

    def masks(said: tuple[int, ...]) -> set[int] | None:
        if len(said) in forced:
            return {100 + len(said)}
        return set(range(50)) if len(said) <= max(forced) else None

    return Script(masks)


def plainly(name: str, **sampling: object) -> Request:
    return asks(name, ANSWER, **({"stop_ids": frozenset(), "logit_bias": (), "max_tokens": 120} | sampling))


@pytest.mark.parametrize("lengths", [(1,), (2,), (3,), (1, 1, 1), (5, 1, 2, 9), (MOST_FORCED + 8,), (90,)])
def test_runs_of_any_length(constrained, one_a_step, lengths):  # noqa: F811
    def run() -> tuple[Any, list[Any]]:
        bench = constrained(scripted(*lengths))
        return bench, outcomes(bench, [plainly("a"), plainly("b", seed=2), asks("c", None, max_tokens=30)])

    (bench, found), (_, expected) = run(), one_a_step(run)
    assert found == expected
    assert max(map(len, given_tokens(bench)), default=0) <= MOST_FORCED + 1
    assert bool(given_tokens(bench)) == (max(lengths) > 1), "one token is sampled as soon as it is computed"


@pytest.mark.parametrize("lengths", [(1, 1), (2, 1), (7, 2)])
@pytest.mark.parametrize("turns", range(6))
def test_what_is_forced_stays_forced_when_thinking_is_ended(constrained, lengths, turns):  # noqa: F811
    """To this form it makes no difference; the message comes while tokens are told, drawn, or computed."""
    bench = constrained(scripted(*lengths))
    bench.inbox.put(Submit(plainly("a")))
    while not bench.outcomes["a"].tokens:
        bench.loop.turn()
    for _ in range(turns):
        bench.loop.turn()
    bench.inbox.put(EndThinking("a"))
    while bench.outcomes["a"].finish is None:
        bench.loop.turn()
    expected = outcomes(constrained(scripted(*lengths)), [plainly("a")])
    assert [(bench.outcomes["a"].tokens, bench.outcomes["a"].finish)] == expected


@pytest.mark.parametrize("fails_at", range(1, 9))
@pytest.mark.parametrize("chosen", [0, 1])
def test_a_constraint_that_fails_amid_a_run(constrained, one_a_step, fails_at, chosen):  # noqa: F811
    """The tokens before are told, as many as one a step would be; also where the turn begins with the run."""

    def masks(said: tuple[int, ...]) -> set[int]:
        if len(said) >= fails_at:
            raise EngineError("the constraint failed: too complex")
        return set(range(50)) if len(said) < chosen else {100 + len(said)}

    def run() -> Any:
        bench = constrained(Script(masks))
        found = bench.run_all([plainly("a"), asks("other", None, max_tokens=20)])
        return [
            (found[name].tokens, found[name].finish, found[name].events[-1].error) for name in ("a", "other")
        ]

    found = run()
    assert found == one_a_step(run)
    assert (len(found[0][0]), found[0][1]) == (fails_at, FinishReason.ERROR)


def test_the_last_step_s_result_comes_though_no_step_follows(constrained):  # noqa: F811
    bench = constrained(scripted(4))
    bench.inbox.put(Submit(plainly("a")))
    while (plan := bench.scheduler.plan()) is None:
        bench.loop._take_in(block=True)
    (told,) = bench.runner.launch(plan).wait().forced
    assert told == (plan.work[0].row, (101, 102, 103, 104))


def test_a_row_that_stands_back_after_it_was_told(constrained):  # noqa: F811
    """Nothing is planned until the better one's last token is known."""
    bench = constrained(scripted(4), background_rows=0)
    bench.inbox.put(Submit(replace(plainly("a", max_tokens=20), priority=BACKGROUND)))
    for _ in range(4):
        bench.loop.turn()
    found = outcomes(bench, [plainly("b", max_tokens=1)])
    assert found[0][1] is FinishReason.LENGTH
    while bench.outcomes["a"].finish is None:
        bench.loop.turn()
    assert (
        bench.outcomes["a"].tokens == outcomes(constrained(scripted(4)), [plainly("a", max_tokens=20)])[0][0]
    )


def test_a_step_that_fails_before_it_computes(constrained, monkeypatch):  # noqa: F811
    """The one before waits for its constraints to move on, and must not wait for ever."""
    bench = constrained(scripted(4))
    bench.inbox.put(Submit(plainly("a")))
    for _ in range(3):
        bench.loop.turn()

    def broken(table: RowTable, plan: Any) -> None:
        monkeypatch.undo()
        raise ValueError("no")

    monkeypatch.setattr(RowTable, "apply", broken)
    while bench.outcomes["a"].finish is None:
        bench.loop.turn()
    assert bench.outcomes["a"].finish is FinishReason.ERROR
    assert outcomes(bench, [plainly("b")]) == outcomes(constrained(scripted(4)), [plainly("b")])


@given(token=st.integers(0, 5000), size=st.integers(0, 700), others=st.sets(st.integers(0, 5000), max_size=2))
def test_masks_of_one_token(token, size, others):
    alone = only(token)
    assert int.from_bytes(alone, "little") == 1 << token
    assert only_token(alone.ljust(size, b"\0")) == token
    bits = sum(1 << each for each in {token, *others})
    assert only_token(bits.to_bytes(640, "little")) == (token if others <= {token} else None)
    assert only_token(None) is only_token(b"") is only_token(bytes(size)) is None
