"""Ten times more requests than a machine can answer: scheduler and admission in a time of their own.

The machine is the demo's on two cores, as `mosso bench engine` saw it: seconds of a step by its rows, and of
a prompt's token. So this says what the two decide, whatever else the machine that runs it does.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from statistics import quantiles

import pytest

from mosso.api.caller import Caller
from mosso.core.requests import BACKGROUND, Request, SamplingParams
from mosso.core.steps import StepPlan, StepResult
from mosso.scheduler import Scheduler, SchedulerConfig
from mosso.server.admission import queue_seconds

ROWS = (1, 2, 4, 8, 16, 32, 64)
STEP = (0.0022, 0.0034, 0.0043, 0.0061, 0.0092, 0.0135, 0.0196)
PROMPT_TOKEN = 0.000175
PROMPT, ANSWER = 48, 64


def seconds_of(plan: StepPlan) -> float:
    rows = len(plan.work)
    at = bisect_left(ROWS, rows)
    step = STEP[at]
    if ROWS[at] != rows:
        share = (rows - ROWS[at - 1]) / (ROWS[at] - ROWS[at - 1])
        step = STEP[at - 1] + share * (STEP[at] - STEP[at - 1])
    return step + PROMPT_TOKEN * sum(work.count for work in plan.work if work.count > 1)


@dataclass
class World:
    """A machine, its clock, and what became of those who asked."""

    max_queue_seconds: float = 0.0
    max_slowdown: float | None = None
    now: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    begun: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)  # seconds from asking to the first token
    whole: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {"page_size": 16, "full_pages": 15_000, "window_pages": 2000, "window": 128}
        config = SchedulerConfig(
            **sizes, max_rows=64, token_budget=1024, max_context=4096, max_slowdown=self.max_slowdown
        )
        self.scheduler = Scheduler(config, lambda: self.now)

    def ask(self, tenant: str = "", priority: int = 0, answer: int = ANSWER) -> None:
        number = sum(self.asked.values())
        self.asked[tenant] += 1
        if queue_seconds(self.scheduler.stats(), Caller(tenant, priority), 0) > self.max_queue_seconds:
            self.refused[tenant] += 1
            return
        name = f"{tenant}-{number}"
        self.begun[name] = self.now
        prompt = tuple((number * 31 + i) % 1000 for i in range(PROMPT))
        self.scheduler.add(Request(name, prompt, SamplingParams(answer), priority, tenant=tenant))

    def step(self) -> None:
        plan = self.scheduler.plan()
        if plan is None:
            self.now += 0.001
            return
        self.now += seconds_of(plan)
        rows = tuple(work.row for work in plan.work if work.samples)
        result = StepResult(plan.step, rows, (1,) * len(rows), (None,) * len(rows))
        for event in self.scheduler.update(result):
            since = self.now - self.begun[event.request_id]
            self.first.setdefault(event.request_id, since)
            if event.finish is not None:
                self.whole[event.request_id] = since

    def flood(self, seconds: float, spread: int = 0, **rates: float) -> None:
        """Tenants ask at random moments, each so many times a second; answers vary in length by `spread`."""
        rng = random.Random(0)
        due = [(self.now + rng.expovariate(rate), tenant) for tenant, rate in rates.items()]
        end = self.now + seconds
        while self.now < end:
            for place, (moment, tenant) in enumerate(due):
                while moment <= self.now:
                    self.ask(tenant, answer=ANSWER + rng.randint(-spread, spread))
                    moment += rng.expovariate(rates[tenant])
                due[place] = moment, tenant
            self.step()

    def rate(self) -> float:
        return len(self.whole) / self.now


def alone() -> World:
    world = World()
    world.ask()
    while not world.whole:
        world.step()
    return world


def p99(values) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def test_those_who_are_let_in_hardly_feel_the_others():
    (unloaded,) = alone().whole.values()
    (first,) = alone().first.values()
    capacity = World(max_slowdown=1.8)
    capacity.flood(8, a=3.0 / unloaded)
    world = World(max_slowdown=1.8)
    world.flood(30, a=10 * capacity.rate())
    assert world.refused["a"] > 0.85 * world.asked["a"]
    assert world.rate() > 0.95 * capacity.rate(), "no collapse"
    assert p99(world.whole.values()) < 2 * unloaded
    late = [seconds for name, seconds in world.first.items() if world.begun[name] > 2]
    assert p99(late) < 2 * first


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_a_queue_is_as_long_as_it_may_be(bound):
    """All rows run, the engine is as fast as with them full, and nobody waits much longer than was said."""
    world = World(max_queue_seconds=bound)
    world.flood(15, spread=60, a=400.0)
    assert world.refused["a"] > 0.8 * world.asked["a"]
    assert world.rate() * ANSWER > 0.6 * 64 / STEP[-1], "prompts take their part"
    late = [seconds for name, seconds in world.first.items() if world.begun[name] > 3]
    assert p99(late) < 1.5 * bound + 0.5
    assert sorted(late)[len(late) // 2] > 0.3 * bound, "and it is made use of"


def test_who_floods_fills_his_own_queue_only():
    world = World(max_queue_seconds=1.0)
    world.flood(8, spread=60, flood=400.0, calm=5.0)
    assert world.refused["flood"] > 0.8 * world.asked["flood"]
    assert world.refused["calm"] == 0
    calm = [seconds for name, seconds in world.first.items() if name.startswith("calm")]
    assert p99(calm) < 0.5
    done = Counter(name.partition("-")[0] for name in world.whole)
    assert done["calm"] >= 0.7 * world.asked["calm"]


def test_a_batch_is_not_felt_and_goes_on():
    world = World(max_queue_seconds=1.0)
    for _ in range(300):
        world.ask("batch", BACKGROUND)
    world.flood(5, front=5.0)
    assert not world.refused
    front = [seconds for name, seconds in world.whole.items() if name.startswith("front")]
    assert p99(front) < 0.5 * ANSWER * STEP[-1], "as if an eighth of the rows were taken, not all"
    while len(world.whole) < sum(world.asked.values()):
        world.step()
