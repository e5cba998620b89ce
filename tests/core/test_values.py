"""The values that rooms exchange: they hold what they say, do not change, and travel between processes."""

import dataclasses
import inspect
import pickle
from types import ModuleType

import pytest

from mosso.core import config, constraints, json, requests, source, steps
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig, YarnRope
from mosso.core.constraints import Call, Grammar, GrammarKind, Turn, TurnConstraint
from mosso.core.requests import (
    EngineLimits,
    EngineStats,
    FinishReason,
    Request,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
)
from mosso.core.source import TokenSource
from mosso.core.steps import RowStart, RowWork, StepPlan, StepResult, ThinkingEnd

REQUEST = Request("r", (1, 2, 3), SamplingParams(8, stop_ids=frozenset({2}), logit_bias=((5, -1.0),)))
GRAMMAR = Grammar(GrammarKind.REGEX, "a+", "where")
WORK = RowWork(0, 2, 1, True, (7,), ((0, 3),))
VALUES = [
    YarnRope(),
    GRAMMAR,
    Call("functions.f", GRAMMAR),
    TurnConstraint(GRAMMAR, (Call("functions.f", GRAMMAR),)),
    Turn(None, ("functions.f",), 100),
    GPT_OSS_20B,
    REQUEST.sampling,
    REQUEST,
    TokenLogprob(1, -0.5, ((1, -0.5), (2, -1.0))),
    TokenEvent("r", (1,), (TokenLogprob(1, -0.5),), FinishReason.STOP, 16),
    EngineLimits(4096, 65_536, 64, 201_088),
    EngineStats(running=1, finished={"stop": 2}),
    RowStart(0, REQUEST, (1, 2, 3), 2, (4,), ((0, 6),)),
    WORK,
    StepPlan(3, (1,), (), (WORK,)),
    ThinkingEnd(0, REQUEST, (4, 5)),
    StepResult(3, (0,), (9,), (None,)),
]


def value_classes():
    modules: list[ModuleType] = [config, constraints, requests, steps]
    members = [kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)]
    return {kind for kind in members if dataclasses.is_dataclass(kind)}


def test_every_value_has_an_example_here():
    assert {type(value) for value in VALUES} == value_classes()


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_does_not_change_and_travels(value):
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)
    assert not hasattr(value, "__dict__"), "slotted"
    assert pickle.loads(pickle.dumps(value)) == value


def test_the_defaults_are_plain_sampling():
    sampling = SamplingParams(1)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)
    assert not sampling.has_penalties
    assert (sampling.seed, sampling.logprobs, sampling.stop_ids) == (None, None, frozenset())


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 0.1}, {"frequency_penalty": -0.1}, {"repetition_penalty": 0.9}]
)
def test_each_penalty_counts_as_one(penalty):
    assert SamplingParams(1, **penalty).has_penalties


def test_a_plan_counts_its_positions():
    assert StepPlan(0).num_tokens == 0
    assert StepPlan(0, work=(RowWork(0, 0, 5, False), RowWork(1, 9, 1, True))).num_tokens == 6


def test_finish_reasons_are_their_words():
    assert [str(reason) for reason in FinishReason] == ["stop", "length", "abort", "error"]
    assert pickle.loads(pickle.dumps(FinishReason.STOP)) is FinishReason.STOP


def test_snapshots_do_not_share_their_counts():
    assert EngineStats().finished is not EngineStats().finished


def test_layers_alternate_beginning_with_a_sliding_one_unless_told_otherwise():
    sizes = dict.fromkeys(
        (f.name for f in dataclasses.fields(ModelConfig) if f.default is dataclasses.MISSING), 4
    )
    assert ModelConfig(**sizes).sliding == (True, False, True, False)
    assert ModelConfig(**sizes, sliding=(False,) * 4).sliding == (False,) * 4


def test_the_published_models_differ_in_layers_and_experts_only():
    small, large = dataclasses.asdict(GPT_OSS_20B), dataclasses.asdict(GPT_OSS_120B)
    assert {name for name in small if small[name] != large[name]} == {"num_layers", "num_experts", "sliding"}
    assert (GPT_OSS_20B.num_layers, GPT_OSS_20B.num_experts) == (24, 32)
    assert (GPT_OSS_120B.num_layers, GPT_OSS_120B.num_experts) == (36, 128)
    assert (len(GPT_OSS_20B.sliding), len(GPT_OSS_120B.sliding)) == (24, 36)


def test_the_seam_between_text_and_tokens_has_six_parts():
    parts = {name for name in vars(TokenSource) if not name.startswith("_")}
    assert parts == {"limits", "stream", "abort", "end_thinking", "stats", "close"}
    assert source.__doc__
    assert json.JsonObject
