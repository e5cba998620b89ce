"""Constraints on the GPU's runner: the same tokens as on the plain one, and who waits for whom.

In the twins, in float32, where there is no GPU: there a step's tokens are on the host at once, but the runner
must not look at them before it says that it waits.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton has no build for this system")

from jsonschema import Draft202012Validator

from mosso.checkpoint.toy_tokenizer import toy_tokenizer
from mosso.core.constraints import Call, Grammar, GrammarKind, TurnConstraint
from mosso.core.requests import FinishReason, Request, SamplingParams
from mosso.engine import gpu_runner
from mosso.engine.gpu_constraints import Constraints
from mosso.engine.gpu_inputs import Slot
from mosso.engine.messages import EndThinking, Submit
from mosso.grammar import HarmonyConstrainer
from mosso.harmony.parser import parse
from mosso.harmony.tokenizer import Tokenizer

from .test_gpu_runner import CUDA, PAGE, GpuBench, PaddedBench, PlainBench
from .test_gpu_runner import folder as folder
from .test_gpu_runner import gpu_weights as gpu_weights
from .test_gpu_runner import plain_weights as plain_weights

TOKENIZER = Tokenizer(json.loads(toy_tokenizer(512)))
CONTROL = TOKENIZER.control
PROMPT = (*TOKENIZER.encode("a question"), CONTROL.start, *TOKENIZER.encode("assistant"))
OPENING = (CONTROL.channel, *TOKENIZER.encode("analysis"), CONTROL.message)
NO_CONTROL = tuple((token, -90.0) for token in range(CONTROL.return_ - 4, 512))
ENDS = [CONTROL.end, CONTROL.return_, CONTROL.call, *TOKENIZER.encode("final"), *TOKENIZER.encode('"}]')]
HURRY = tuple((token, 9.0) for token in ENDS)
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FORM = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(CITY))
ANSWER = TurnConstraint(FORM)
CALL = TurnConstraint(None, (Call("functions.f", FORM),))


@pytest.fixture
def benches(gpu_weights, plain_weights, folder):
    made: list[Any] = []

    def make(kind: type, **changes: object) -> Any:
        own = type("Constrained", (kind,), {"constrainer": HarmonyConstrainer(folder, 512)})
        sizes = {"page_size": PAGE, "full_pages": 256, "window_pages": 256, "max_context": 512}
        made.append(own(gpu_weights if kind is not PlainBench else plain_weights, **(sizes | changes)))
        return made[-1]

    yield make
    for each in made:
        each.runner.close()


def asks(name: str, form: TurnConstraint | None = ANSWER, **fields: Any) -> Request:
    sampling = {"max_tokens": 120, "seed": len(name), "stop_ids": TOKENIZER.stop_ids, "logit_bias": HURRY}
    request = {"constraint": form} | {key: fields.pop(key) for key in ("thinking_budget", "generated")
                                      if key in fields}  # fmt: skip
    return Request(name, PROMPT, SamplingParams(**(sampling | fields)), **request)


def thinks(name: str, budget: int | None, **fields: Any) -> Request:
    return asks(name, None, thinking_budget=budget, generated=OPENING, logit_bias=NO_CONTROL, max_tokens=60,
                **fields)  # fmt: skip


def run(bench: Any, *requests: Request) -> dict[str, list[int]]:
    for request in requests:
        bench.inbox.put(Submit(request))
    while any(bench.outcomes[r.id].finish is None and r.id not in bench.rejected for r in requests):
        bench.loop.turn()
    while not bench.loop.idle:
        bench.loop.turn()
    assert not bench.rejected
    return {request.id: list(bench.outcomes[request.id].tokens) for request in requests}


MIXED = [
    asks("a"), asks("ab", CALL), asks("abc", temperature=0.0), asks("abcd", top_p=0.9, top_k=40),
    asks("abcde", CALL, presence_penalty=1.0, logprobs=3), asks("abcdef", None, max_tokens=40),
    thinks("1", 7), thinks("12", 0), thinks("123", 30), asks("abcdefg", thinking_budget=4),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [(GpuBench, {}), (PaddedBench, {"full_pages": 14, "max_context": 112})],
    ids=["wide", "padded and preempted"],
)
def test_the_tokens_are_those_of_the_plain_runner(benches, kind, sizes):
    short = [MIXED[i] for i in (0, 1, 4, 6, 7, 8)] if sizes else MIXED
    bench = benches(kind, **sizes)
    found = run(bench, *short)
    if sizes:
        assert bench.stats.preemptions > 0
    for request in short:
        outcome = bench.outcomes[request.id]
        if request.constraint is not None and outcome.finish is FinishReason.STOP:
            Draft202012Validator(CITY).validate(json.loads(parse(TOKENIZER, outcome.tokens)[-1].text))
        if request.thinking_budget is not None and request.generated:
            assert outcome.tokens.index(CONTROL.end) <= request.thinking_budget + 3
    if not CUDA:
        assert found == run(benches(PlainBench, **sizes), *short)


@pytest.fixture
def waits(monkeypatch) -> list[Slot]:
    """The slots whose results were asked for while they were under way."""
    asked: list[Slot] = []
    wait = Slot.wait

    def noted(slot: Slot) -> None:
        asked.append(slot)
        wait(slot)

    monkeypatch.setattr(Slot, "wait", noted)
    return asked


def launches(bench: Any, waits: list[Slot]) -> list[bool]:
    """Makes the bench note for each launch whether it waited for the step under way."""
    waited: list[bool] = []
    launch, last = bench.runner.launch, [None]

    def noted(plan: Any) -> Any:
        before = len(waits)
        pending = launch(plan)
        asked = [slot for slot in waits[before:] if slot is last[0]]
        waited.append(bool(asked))
        last[0] = pending.slot
        return pending

    bench.runner.launch = noted
    return waited


def test_steps_without_constraints_wait_for_nobody(benches, waits):
    bench = benches(GpuBench)
    waited = launches(bench, waits)
    free = {"logit_bias": NO_CONTROL, "stop_ids": frozenset()}
    run(
        bench,
        asks("free", None, max_tokens=40, **free),
        asks("other", None, max_tokens=30, top_p=0.5, **free),
    )
    assert len(waited) >= 40
    assert not any(waited)


def test_a_formed_turn_waits_behind_the_forward_pass(benches, waits, monkeypatch):
    """The device computes while the host waits for the token before, and for its mask."""
    bench, order = benches(GpuBench), []
    launches(bench, waits)
    compute, allowed = gpu_runner.forward, Constraints.allowed

    def computed(*args: Any) -> Any:
        order.append("forward")
        return compute(*args)

    def asked(constraints: Constraints, plan: Any) -> Any:
        order.append(len(waits))
        found = allowed(constraints, plan)
        order[-1] = "waited" if len(waits) > order[-1] else "asked"
        return found

    monkeypatch.setattr(gpu_runner, "forward", computed)
    monkeypatch.setattr(Constraints, "allowed", asked)
    tokens = run(bench, asks("a"))["a"]
    assert order[:2] == ["forward", "asked"], "the first token waits for nobody"
    assert order[2 : 2 * len(tokens)] == ["forward", "waited"] * (len(tokens) - 1)


def test_a_formed_turn_waits_in_each_step(benches, waits):
    bench = benches(GpuBench)
    waited = launches(bench, waits)
    tokens = run(bench, asks("a"))["a"]
    assert len(tokens) - 2 <= sum(waited) <= len(tokens) + 1


def test_a_budget_waits_only_where_it_is_used_up(benches, waits):
    bench = benches(GpuBench)
    waited = launches(bench, waits)
    tokens = run(bench, thinks("1", 20))["1"]
    end = tokens.index(CONTROL.end)
    header = 2 + tokens[end:].index(CONTROL.message)
    assert not any(waited[: end - 2])
    assert 1 <= sum(waited) <= header + 6, "the last tokens, and the header behind them"
    assert not any(waited[end + header + 6 :]), "the answer runs ahead again"


def test_a_row_s_next_request_is_free_of_a_token_under_way(benches):
    """A step draws for a row's old request while the row is given to the next one, which has a constraint."""
    free = asks("free", None, max_tokens=7, logit_bias=())
    bench, alone = benches(GpuBench, max_rows=1), benches(GpuBench)
    found = run(bench, free, asks("a"), asks("cut", max_tokens=2), thinks("1", 5), asks("ab", CALL))
    again = [asks("a"), thinks("1", 5), asks("ab", CALL)]
    assert {r.id: found[r.id] for r in again} == run(alone, *again)


def test_thinking_ends_when_it_is_told_to(benches):
    bench, request = benches(GpuBench), thinks("1", None)
    other = asks("abcdef", None, max_tokens=200)
    for each in (request, other):
        bench.inbox.put(Submit(each))
    outcome, told = bench.outcomes["1"], False
    while outcome.finish is None:
        bench.loop.turn()
        if len(outcome.tokens) >= 9 and not told:
            bench.inbox.put(EndThinking("1", prepared=True))
            told = True
    assert 9 <= outcome.tokens.index(CONTROL.end) <= 9 + 6
    thought, answer = parse(TOKENIZER, (*OPENING, *outcome.tokens))
    assert (thought.channel, answer.role) == ("analysis", "assistant")
    assert answer.channel in ("final", "commentary")


def test_a_failed_step_forgets_what_was_under_way(benches):
    bench = benches(GpuBench)
    bench.inbox.put(Submit(asks("a")))
    for _ in range(8):
        bench.loop.turn()
    bench.runner.reset()
    bench.scheduler.fail("gone")
    bench.loop._pending = None
    found = run(bench, asks("ab", CALL))
    assert found == run(benches(GpuBench), asks("ab", CALL))
