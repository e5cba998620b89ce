"""Thinking that is ended, by its budget or by a message, through scheduler, overlap loop and sampler.

A random model says anything that its mask lets through. The bias makes it open a thought, and think for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mosso.checkpoint.toy_tokenizer import toy_tokenizer
from mosso.core.constraints import Call, Grammar, GrammarKind, TurnConstraint
from mosso.core.errors import RequestError, UnsupportedError
from mosso.core.requests import FinishReason, Request, SamplingParams
from mosso.engine.messages import EndThinking, Submit
from mosso.grammar import HarmonyConstrainer
from mosso.harmony.parser import parse
from mosso.harmony.tokenizer import Tokenizer

TOKENIZER = Tokenizer(json.loads(toy_tokenizer(512)))
CONTROL = TOKENIZER.control
OPENING = (CONTROL.channel, *TOKENIZER.encode("analysis"), CONTROL.message)
PROMPT = (*TOKENIZER.encode("a question"), CONTROL.start, *TOKENIZER.encode("assistant"))
NO_CONTROL = tuple((token, -90.0) for token in range(CONTROL.return_ - 4, 512))
"""A bias: what is free never speaks Harmony by itself."""

CITY = {"type": "object", "properties": {"days": {"enum": [1, 2]}}, "required": ["days"],
        "additionalProperties": False}  # fmt: skip
FORM = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(CITY))
ANSWER = TurnConstraint(FORM)
CALL = TurnConstraint(None, (Call("functions.f", FORM),))


@pytest.fixture
def thinking(bench_class: type, weights: Any, model: Any) -> Iterable[Callable[..., Any]]:
    made: list[Any] = []

    def make(**changes: object) -> Any:
        kind = type("ThinkingBench", (bench_class,), {"constrainer": HarmonyConstrainer(model, 512)})
        made.append(kind(weights, **({"max_context": 512, "full_pages": 512} | changes)))
        return made[-1]

    yield make
    for each in made:
        each.runner.close()


def asks(name: str, budget: int | None, form: TurnConstraint | None = None, **sampling: object) -> Request:
    """Its turn has begun already, with the header of a thought."""
    fields = {"max_tokens": 120, "seed": len(name), "stop_ids": TOKENIZER.stop_ids, "logit_bias": NO_CONTROL}
    return Request(name, PROMPT, SamplingParams(**(fields | sampling)), constraint=form, generated=OPENING,
                   recipients=("functions.f",), thinking_budget=budget)  # fmt: skip


def run(bench: Any, *requests: Request) -> dict[str, Any]:
    for request in requests:
        bench.inbox.put(Submit(request))
    while any(bench.outcomes[r.id].finish is None and r.id not in bench.rejected for r in requests):
        bench.loop.turn()
    return bench.outcomes


def said(bench: Any, request: Request) -> list[Any]:
    return parse(TOKENIZER, (*request.generated, *bench.outcomes[request.id].tokens))


def count(tokens: Sequence[int]) -> int:
    """Tokens of the thought that the turn began with."""
    return tokens.index(CONTROL.end) if CONTROL.end in tokens else len(tokens)


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_free_turn_thinks_no_more_than_its_budget(thinking, budget):
    bench = thinking()
    requests = [asks(f"r{'x' * seed}", budget, temperature=0.7) for seed in range(4)]
    found = run(bench, *requests)
    for request in requests:
        tokens = found[request.id].tokens
        assert len(tokens) == 117, "max_tokens counts what was generated before"
        assert budget <= count(tokens) <= budget + 3
        thought, answer = said(bench, request)
        assert thought.channel == "analysis"
        assert answer.channel in ("final", "commentary")
        assert answer.role == "assistant"


def test_a_turn_that_may_not_think_begins_with_another_header(thinking):
    bench = thinking()
    requests = [replace(asks(f"r{'x' * seed}", 0), generated=()) for seed in range(4)]
    run(bench, *requests)
    for request in requests:
        (answer,) = said(bench, request)
        assert answer.channel in ("final", "commentary")


@pytest.mark.parametrize("form", [ANSWER, CALL])
@pytest.mark.parametrize("budget", [0, 5])
def test_a_formed_turn_is_in_its_form(thinking, form, budget):
    asked = [asks(f"r{'x' * seed}", budget, form, logprobs=2) for seed in range(4)]
    bench = thinking()
    found = run(bench, *asked)
    for request in asked:
        outcome = found[request.id]
        assert outcome.finish is FinishReason.STOP
        assert budget <= count(outcome.tokens) <= budget + 3
        Draft202012Validator(CITY).validate(json.loads(said(bench, request)[-1].text))
        told = [entry.token for event in outcome.events for entry in event.logprobs]
        assert told == outcome.tokens


def test_alone_together_and_preempted_give_the_same_tokens(thinking):
    requests = [asks(f"r{'x' * n}", 5, (None, ANSWER)[n % 2], max_tokens=50) for n in range(6)]
    alone = [run(thinking(), request)[request.id].tokens for request in requests]
    together = run(thinking(), *requests)
    assert [together[request.id].tokens for request in requests] == alone
    tight = thinking(full_pages=9, window_pages=40, max_context=72)
    found = run(tight, *requests)
    assert tight.stats.preemptions > 0
    assert [found[request.id].tokens for request in requests] == alone


def ended(bench: Any, request: Request, after: int, *, prepared: bool = True) -> list[int]:
    """The tokens of a request whose thinking is ended when so many are known; not `prepared`: some steps
    later, when the constrainer is ready."""
    bench.inbox.put(Submit(request))
    outcome, told = bench.outcomes[request.id], 0
    while outcome.finish is None:
        bench.loop.turn()
        if len(outcome.tokens) >= after and not told:
            bench.inbox.put(EndThinking(request.id, prepared))
            told = len(outcome.tokens)
        if not prepared and told and len(outcome.tokens) == told + 9:
            # However slow its thread is, there shall be tokens left: it does one thing after another.
            bench.loop._compiling._worker.submit(int).result()
    return list(outcome.tokens)


@pytest.mark.parametrize("form", [None, ANSWER])
@pytest.mark.parametrize("budget", [None, 100])
@pytest.mark.parametrize("after", [1, 17])
def test_thinking_ends_when_it_is_told_to(thinking, form, budget, after):
    bench, request = thinking(), asks("r", budget, form, temperature=0.7, max_tokens=300)
    tokens = ended(bench, request, after)
    assert after <= count(tokens) <= after + 6, "steps were under way, and bytes complete a character"
    messages = said(bench, request)
    assert messages[0].channel == "analysis"
    assert messages[1].channel in ("final", "commentary")
    if form is ANSWER:
        Draft202012Validator(CITY).validate(json.loads(messages[-1].text))


def test_the_constrainer_is_made_ready_beside_the_loop(thinking):
    """However long that takes: the request goes on thinking meanwhile, and is then ended."""
    bench, request = thinking(), asks("r", None, max_tokens=480)
    tokens = ended(bench, request, 1, prepared=False)
    assert CONTROL.end in tokens
    assert said(bench, request)[1].channel in ("final", "commentary")


def test_until_then_the_tokens_are_those_of_the_free_request(thinking):
    whole = run(thinking(), asks("r", None))["r"].tokens
    tokens = ended(thinking(), asks("r", None), 20)
    equal = [a == b for a, b in zip(tokens, whole, strict=True)].index(False)
    assert count(tokens) - 3 <= equal <= count(tokens), "bytes that complete a character may stand between"
    assert CONTROL.end not in whole


def test_a_request_that_waits_for_its_row_will_not_think(thinking):
    bench = thinking(max_rows=1)
    second = replace(asks("second", None), generated=())
    bench.inbox.put(Submit(asks("first", None, max_tokens=30)))
    bench.inbox.put(Submit(second))
    bench.loop.turn()
    bench.inbox.put(EndThinking("second"))
    bench.inbox.put(EndThinking("nobody"))
    while bench.outcomes["second"].finish is None:
        bench.loop.turn()
    assert said(bench, second)[0].channel != "analysis"


def test_one_that_is_being_compiled_will_not_think(thinking):
    bench, request = thinking(), replace(asks("r", 100, ANSWER), generated=())
    bench.inbox.put(Submit(request))
    bench.inbox.put(EndThinking("r"))
    while bench.outcomes["r"].finish is None:
        bench.loop.turn()
    assert [message.channel for message in said(bench, request)] == ["final"]


def test_ending_twice_and_after_the_end(thinking):
    bench, request = thinking(), asks("r", None)
    bench.inbox.put(Submit(request))
    for _ in range(12):
        bench.loop.turn()
        bench.inbox.put(EndThinking("r"))
    while bench.outcomes["r"].finish is None:
        bench.loop.turn()
    bench.inbox.put(EndThinking("r"))
    bench.loop.turn()
    assert len(bench.outcomes["r"].tokens) == 117
    other = run(bench, replace(request, id="s"))["s"].tokens
    assert count(other) == 117, "a row's next request thinks as it likes"


def test_an_engine_without_masks_refuses_a_budget_by_name(bench):
    plain = bench()
    plain.run([asks("r", 4)])
    assert isinstance(plain.rejected["r"], UnsupportedError)
    assert "thinking budget" in plain.rejected["r"].message
    plain.inbox.put(EndThinking("r"))
    plain.loop.turn()


def test_a_folder_without_a_vocabulary(bench_class, weights, tmp_path):
    kind = type("BareBench", (bench_class,), {"constrainer": HarmonyConstrainer(tmp_path, 512)})
    bare = kind(weights)
    run(bare, asks("r", 4))
    assert isinstance(bare.rejected["r"], RequestError)
    tokens = ended(bare, asks("free", None, max_tokens=20), 5, prepared=True)
    assert len(tokens) < 20, "it fails, alone and by name"
    assert "tokenizer.json" in bare.outcomes["free"].events[-1].error
    bare.runner.close()
