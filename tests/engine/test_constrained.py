"""Constrained requests through scheduler, overlap loop and sampler, with random weights.

A random model says anything that its mask lets through, so whatever comes out valid is valid by the mask.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mosso.checkpoint.toy_tokenizer import toy_tokenizer
from mosso.core.constraints import Call, Grammar, GrammarKind, Turn, TurnConstraint
from mosso.core.errors import EngineError, OverloadedError, RequestError, UnsupportedError
from mosso.core.requests import FinishReason, Request, SamplingParams
from mosso.core.steps import RowStart, RowWork, StepPlan, ThinkingEnd
from mosso.engine.constrained import ConstrainedRows, words
from mosso.engine.messages import Abort, Submit
from mosso.grammar import HarmonyConstrainer
from mosso.harmony.parser import parse
from mosso.harmony.tokenizer import Tokenizer
from mosso.kernels.sampling import restrict

TOKENIZER = Tokenizer(json.loads(toy_tokenizer(512)))
CONTROL = TOKENIZER.control
STOPS = TOKENIZER.stop_ids
PROMPT = tuple(TOKENIZER.encode("a question"))
ENDS = [CONTROL.end, CONTROL.return_, CONTROL.call, *TOKENIZER.encode("final")]
HURRY = (*((token, 9.0) for token in ENDS), *((token, 5.0) for token in TOKENIZER.encode('"}]')))
"""A bias towards ends: a random model would fill the context with its first thought or string."""


def schema_of(schema: Any) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema), "schema")


CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
ANSWER = TurnConstraint(schema_of(CITY))
CALL = TurnConstraint(None, (Call("functions.f", schema_of(CITY)),))


class Finishing:
    """A bench whose `run` also waits for what is being compiled."""

    def run_all(self, requests: Sequence[Request]) -> dict[str, Any]:
        for request in requests:
            self.inbox.put(Submit(request))
        while any(self.outcomes[r.id].finish is None and r.id not in self.rejected for r in requests):
            self.loop.turn()
        return self.outcomes


@pytest.fixture
def constrained(bench_class: type, weights: Any, model: Any) -> Iterable[Callable[..., Any]]:
    """constrained(**changes): a bench with masks; `constrainer` replaces the real one."""
    made: list[Any] = []

    def make(constrainer: Any = None, **changes: object) -> Any:
        own = constrainer or HarmonyConstrainer(model, 512)
        kind = type("ConstrainedBench", (Finishing, bench_class), {"constrainer": own})
        made.append(kind(weights, **({"max_context": 1024, "full_pages": 512} | changes)))
        return made[-1]

    yield make
    for each in made:
        each.runner.close()


def asks(name: str, constraint: TurnConstraint | None = ANSWER, **sampling: object) -> Request:
    fields = {"max_tokens": 900, "seed": 1, "stop_ids": STOPS, "logit_bias": HURRY} | sampling
    return Request(name, PROMPT, SamplingParams(**fields), constraint=constraint)


def final_of(tokens: Sequence[int]) -> str:
    *before, last = parse(TOKENIZER, tokens)
    assert all(message.channel == "analysis" for message in before)
    return last.text


def test_random_weights_answer_in_the_form_and_call_in_the_form(constrained):
    bench = constrained()
    requests = [asks(f"{kind}{seed}", turn, seed=seed, temperature=1.5)
                for seed in range(6) for kind, turn in (("answer", ANSWER), ("call", CALL))]  # fmt: skip
    found = bench.run_all([*requests, asks("free", None)])
    for request in requests:
        outcome = found[request.id]
        assert outcome.finish is FinishReason.STOP
        Draft202012Validator(CITY).validate(json.loads(final_of(outcome.tokens)))
        last = parse(TOKENIZER, outcome.tokens)[-1]
        wanted = ("final", None) if "answer" in request.id else ("commentary", "functions.f")
        assert (last.channel, last.recipient) == wanted
    assert len({tuple(found[r.id].tokens) for r in requests}) == len(requests), "they did draw"


def test_greedy_and_truncated_rows_stay_in_the_form(constrained):
    rows = [
        asks("greedy", temperature=0.0),
        asks("cut", top_k=1, min_p=0.5),
        asks("penalized", presence_penalty=2.0, repetition_penalty=3.0),
        asks("asked", logprobs=3),
    ]
    found = constrained().run_all(rows)
    for row in rows:
        json.loads(final_of(found[row.id].tokens))
    asked = [entry for event in found["asked"].events for entry in event.logprobs]
    assert [entry.token for entry in asked] == found["asked"].tokens
    assert all(len(entry.top) == 3 and entry.logprob > -100 for entry in asked), (
        "the model's own, before masks"
    )


def test_alone_together_and_preempted_give_the_same_tokens(constrained):
    """Masks follow from a row's own tokens, whatever shares its steps and however often it starts anew."""
    requests = [asks(str(seed), ANSWER if seed % 2 else CALL, seed=seed) for seed in range(6)]
    alone = [constrained().run_all([request])[request.id].tokens for request in requests]
    together = constrained().run_all(requests)
    assert [together[request.id].tokens for request in requests] == alone
    tight = constrained(full_pages=10, window_pages=40, max_context=80)
    short = [replace(r, sampling=replace(r.sampling, max_tokens=60)) for r in requests]
    found = tight.run_all(short)
    assert tight.stats.preemptions > 0
    assert [found[request.id].tokens for request in short] == [tokens[:60] for tokens in alone]


def test_a_row_s_next_request_is_free_of_its_last_one_s_constraint(constrained):
    free = asks("free", None, max_tokens=20, logit_bias=())
    alone = constrained().run_all([free])["free"].tokens
    bench = constrained(max_rows=1)
    assert bench.run_all([asks("cut", max_tokens=1)])["cut"].finish is FinishReason.LENGTH, "amid its turn"
    assert bench.run_all([free])["free"].tokens == alone


def test_constrained_rows_run_in_every_step(constrained):
    """Overlap holds: a step is planned while the last token of its constrained row is still being drawn."""
    bench = constrained()
    found = bench.run_all([asks("one")])
    work = [item for plan in bench.runner.plans for item in plan.work if item.samples]
    assert len(work) - len(found["one"].tokens) in (0, 1), "at most one step too many, planned before the end"
    assert len(bench.runner.plans) == len(work)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_small_schemas(constrained, data):
    """Valid every time, or refused by name before anything is generated."""
    schemas = data.draw(st.lists(SCHEMAS, min_size=4, max_size=4))
    bench = constrained()
    requests = [asks(str(i), TurnConstraint(schema_of(schema)), seed=i) for i, schema in enumerate(schemas)]
    found = bench.run_all(requests)
    for request, schema in zip(requests, schemas, strict=True):
        if request.id in bench.rejected:
            assert "cannot be honoured" in str(bench.rejected[request.id])
        elif found[request.id].finish is FinishReason.STOP:
            Draft202012Validator(schema).validate(json.loads(final_of(found[request.id].tokens)))
        else:
            assert found[request.id].finish is FinishReason.LENGTH


NAMES = st.sampled_from(["a", "b", "ö", "long name", '"'])
LEAVES = st.one_of(
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"const": {"a": [1]}}, {"enum": ["x", 2, None]}]),
    st.builds(lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
              st.integers(-50, 50), st.integers(0, 200)),
    st.builds(lambda low, size: {"type": "number", "exclusiveMinimum": low, "maximum": low + size},
              st.integers(-5, 5), st.integers(1, 3)),
    st.builds(lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size},
              st.integers(0, 3), st.integers(0, 5)),
    st.sampled_from([r"^[a-c]{1,4}$", r"^\d{3}-\d{2}$", "x|yy"]).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
    st.sampled_from(["date", "uuid", "ipv4"]).map(lambda name: {"type": "string", "format": name}),
)  # fmt: skip


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(properties: dict[str, Any], required: list[str], more: bool) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "additionalProperties": more,
                "required": [name for name in properties if name in required]}  # fmt: skip

    return st.builds(build, st.dictionaries(NAMES, inner, max_size=3), st.lists(NAMES), st.booleans())


def branches(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most},
                       inner, st.integers(0, 3))  # fmt: skip
    unions = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(objects(inner), arrays, unions.map(lambda of: {"anyOf": of}),
                     unions.map(lambda of: {"oneOf": of}))  # fmt: skip


PLAIN = st.recursive(LEAVES, branches, max_leaves=5)


def tree(leaf: Any) -> dict[str, Any]:
    node = {"anyOf": [leaf, {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}]}
    return {"$defs": {"node": node}, "$ref": "#/$defs/node"}


SCHEMAS = st.one_of(PLAIN, PLAIN.map(tree))


def test_a_schema_that_cannot_be_honoured_is_rejected_by_name(constrained):
    bench = constrained()
    bad = TurnConstraint(schema_of({"type": "array", "uniqueItems": True}))
    found = bench.run_all([asks("bad", bad), asks("good")])
    assert found["good"].finish is FinishReason.STOP
    error = bench.rejected["bad"]
    assert isinstance(error, RequestError)
    assert error.param == "schema"
    assert "uniqueItems" in error.message


def test_an_engine_without_masks_refuses_by_name(bench):
    plain = bench()
    plain.run([asks("r")])
    assert isinstance(plain.rejected["r"], UnsupportedError)
    assert "structured output" in plain.rejected["r"].message


class Slow:
    """A constrainer whose compilation waits until it is told."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.error: Exception | None = None

    def prepare(self, turn: Turn) -> None:
        assert self.go.wait(240)
        if self.error is not None:
            raise self.error

    def begin(self, turn: Turn, tokens: Sequence[int]) -> Any:
        return Broken(len(tokens))

    def advance(self, constraints: Sequence[Any], tokens: Sequence[int]) -> list[bytes | EngineError]:
        return [constraint.moved() for constraint in constraints]


class Broken:
    """Lets everything through and fails after three tokens."""

    def __init__(self, consumed: int) -> None:
        self.left = 3 - consumed

    def mask(self) -> bytes:
        return b"\xff" * 64

    def slack(self) -> int:
        return 0

    def moved(self) -> bytes | EngineError:
        self.left -= 1
        return EngineError("the constraint failed: too complex") if self.left == 0 else self.mask()


def test_others_run_while_a_schema_compiles_and_an_abort_reaches_it(constrained):
    slow = Slow()
    bench = constrained(slow)
    for request in (asks("waits"), asks("leaves")):
        bench.inbox.put(Submit(request))
    assert bench.run_all([asks("other", None)])["other"].finish
    bench.inbox.put(Abort("leaves"))
    bench.loop.turn()
    assert bench.outcomes["leaves"].finish is FinishReason.ABORT
    slow.go.set()
    while bench.outcomes["waits"].finish is None:
        bench.loop.turn()
    assert bench.outcomes["leaves"].tokens == []


def test_a_constraint_that_fails_ends_its_own_request_only(constrained):
    slow = Slow()
    slow.go.set()
    bench = constrained(slow)
    found = bench.run_all([asks("breaks", logit_bias=(), stop_ids=frozenset()), asks("other", None)])
    assert found["breaks"].finish is FinishReason.ERROR
    assert found["breaks"].events[-1].error == "the constraint failed: too complex"
    assert found["breaks"].events[-1].refused, "it is the request's fault"
    assert len(found["breaks"].tokens) == 3
    assert found["other"].finish in (FinishReason.STOP, FinishReason.LENGTH)


def test_what_waits_for_compilation_is_bounded_and_has_its_own_id(constrained):
    slow = Slow()
    bench = constrained(slow, max_waiting=2)
    for name in ("a", "a", "b", "c"):
        bench.inbox.put(Submit(asks(name)))
    bench.inbox.put(Submit(asks("last", None)))
    bench.loop.turn()
    assert isinstance(bench.rejected["a"], RequestError)
    assert isinstance(bench.rejected["c"], OverloadedError)
    slow.error = ValueError("what?")
    slow.go.set()
    while not isinstance(bench.rejected.get("b"), EngineError):
        bench.loop.turn()


def test_bits_and_logits():
    mask = bytes([0b0000_0101, 0b1000_0000, 0xFF, 0xFF])
    logits = torch.randn(3, 17)
    found = logits.clone()
    restrict(found, torch.tensor([2, 0]), torch.from_numpy(words([mask, mask], 17)))
    for row in (0, 2):
        assert found[row].isfinite().nonzero()[:, 0].tolist() == [0, 2, 15, 16]
    assert torch.equal(found[:, 2], logits[:, 2])
    assert torch.equal(found[1], logits[1])


class Counting:
    """A constraint with a budget: no mask until its thinking is ended by hand."""

    def __init__(self) -> None:
        self.ended = False

    def mask(self) -> bytes | None:
        return b"\xff" * 64 if self.ended else None

    def slack(self) -> int:
        return 0 if self.ended else 1 << 30

    def consume(self, token: int) -> None: ...

    def end_thinking(self) -> None:
        self.ended = True


class SlowForms:
    """Turns with a form do not begin before `may_begin`."""

    def __init__(self) -> None:
        self.may_begin = threading.Event()
        self.waited = True  # long enough

    def begin(self, turn: Turn, tokens: Sequence[int]) -> Counting:
        if turn.form is not None:
            self.waited = self.may_begin.wait(120)
        return Counting()

    def advance(self, constraints: Sequence[Counting], tokens: Sequence[int]) -> list[bytes | None]:
        return [constraint.mask() for constraint in constraints]


@pytest.mark.parametrize("threaded", [True, False])
def test_a_thought_is_ended_though_another_row_s_form_begins_slowly(threaded):
    forms = SlowForms()
    rows = ConstrainedRows(forms, lambda *_: [], threaded=threaded)
    thinks = Request("thinks", (1, 2), SamplingParams(max_tokens=9), thinking_budget=50)
    slow = Request("slow", (1, 2), SamplingParams(max_tokens=9), constraint=ANSWER)
    start = {r.id: RowStart(i, r, r.prompt, 0, (), ()) for i, r in enumerate((thinks, slow))}
    work = [RowWork(0, 0, 2, True)]
    try:
        rows.apply(StepPlan(0, (), (start["thinks"],), work))
        assert not rows.allowed(work).at
        rows.drawn([0], [5])
        end = ThinkingEnd(0, replace(thinks, thinking_budget=0), (5,))
        rows.apply(StepPlan(1, (), (start["slow"],), work, (end,)))
        assert rows.may_restrict(work, frozenset())
        assert rows.allowed(work).at == (0,)
        assert not forms.may_begin.is_set()
    finally:
        forms.may_begin.set()
        rows.close()
    assert forms.waited, "nobody waited for the form's two minutes"
