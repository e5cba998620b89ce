"""A tiny random checkpoint, and engine loops over it that are turned by hand and remember their logits."""

from __future__ import annotations

import queue
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.random_weights import write_random
from mosso.core.config import ModelConfig
from mosso.core.constraints import Constrainer
from mosso.core.requests import EngineLimits, EngineStats, FinishReason, Request, SamplingParams, TokenEvent
from mosso.core.steps import StepPlan
from mosso.engine.loop import EngineLoop
from mosso.engine.messages import Batch, FromEngine, Rejected, Submit, ToEngine
from mosso.engine.runner import Pending, Runner, TorchRunner
from mosso.engine.sampler import Sampler
from mosso.engine.settings import EngineSettings
from mosso.engine.table import RowTable
from mosso.model.inputs import StepInputs
from mosso.model.loading import load_weights
from mosso.model.paged import PagedKV, forward
from mosso.model.weights import Weights
from mosso.scheduler import Scheduler, SchedulerConfig

CONFIG = ModelConfig(
    num_layers=4,
    num_experts=4,
    experts_per_token=2,
    hidden_size=64,
    intermediate_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=512,
    window=16,
    max_context=1024,
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "model"
    write_random(folder, CONFIG, device="cpu")
    return folder


@pytest.fixture(scope="session")
def weights(model: Path) -> Weights:
    with open_checkpoint(model) as checkpoint:
        return load_weights(checkpoint, dtype=torch.float32, experts="expanded")


@pytest.fixture
def settings(model: Path) -> Callable[..., EngineSettings]:
    """Settings for a child process: one thread, little memory, every invariant checked."""

    def make(**changes: object) -> EngineSettings:
        base = EngineSettings(
            model,
            device="cpu",
            threads=1,
            page_size=8,
            token_budget=64,
            max_rows=16,
            kv_memory=16 << 20,
            check=True,
        )
        return replace(base, **changes)

    return make


@dataclass
class Outcome:
    """What one request got."""

    tokens: list[int] = field(default_factory=list)
    events: list[TokenEvent] = field(default_factory=list)
    logits: dict[int, torch.Tensor] = field(default_factory=dict)  # by the position that was sampled

    @property
    def finish(self) -> FinishReason | None:
        return self.events[-1].finish if self.events else None


class RecordingRunner(TorchRunner):
    """Remembers the plans and the logits of each."""

    def __init__(self, table: RowTable, sampler: Sampler, run: Callable[[StepInputs], torch.Tensor]) -> None:
        self.plans: list[StepPlan] = []
        self.logits: list[torch.Tensor] = []

        def record(inputs: StepInputs) -> torch.Tensor:
            self.logits.append(run(inputs))
            return self.logits[-1]

        super().__init__(table, sampler, record)

    def launch(self, plan: StepPlan) -> Pending:
        self.plans.append(plan)
        return super().launch(plan)

    def by_request(self) -> dict[str, dict[int, torch.Tensor]]:
        """Request id → position → the logits that chose its token (the last ones, if it was redone)."""
        found: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
        owner: dict[int, str] = {}
        for plan, logits in zip(self.plans, self.logits, strict=True):
            owner |= {start.row: start.request.id for start in plan.starts}
            sampling = [work for work in plan.work if work.samples]
            for work, row in zip(sampling, logits, strict=True):
                found[owner[work.row]][work.start + work.count] = row
        return found


class Bench:
    """One engine loop in this process. `run` submits requests and turns until nothing is left to do."""

    model_config = CONFIG
    constrainer: Constrainer | None = None

    def __init__(self, weights: object, **changes: object) -> None:
        sizes = {
            "page_size": 8,
            "full_pages": 256,
            "window_pages": 256,
            "window": self.model_config.window,
            "max_rows": 16,
            "token_budget": 64,
            "max_context": 256,
        }
        self.config = SchedulerConfig(**(sizes | changes))
        c = self.config
        self.scheduler = Scheduler(c)
        self.runner = self.make_runner(weights)
        self.inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
        self.outcomes: dict[str, Outcome] = defaultdict(Outcome)
        self.rejected: dict[str, Exception] = {}
        self.stats = EngineStats()
        vocab_size = self.model_config.vocab_size
        limits = EngineLimits(c.max_context, c.full_pages * c.page_size, c.max_rows, vocab_size)
        self.loop = EngineLoop(
            self.scheduler,
            self.runner,
            self.inbox,
            self.take,
            limits,
            constrainer=self.constrainer,
            check=True,
        )

    def make_runner(self, weights: Weights) -> Runner:
        c = self.config
        kv = PagedKV.allocate(self.model_config, c.full_pages, c.window_pages, c.page_size, torch.float32)
        table = RowTable(c.max_rows, c.max_context, c.page_size, torch.device("cpu"))
        sampler = Sampler(table, c.max_rows, torch.device("cpu"), constrainer=self.constrainer)
        return RecordingRunner(table, sampler, partial(forward, weights, self.model_config, kv))

    def take(self, message: FromEngine) -> None:
        match message:
            case Batch(events, stats):
                self.stats = stats
                for event in events:
                    self.outcomes[event.request_id].events.append(event)
                    self.outcomes[event.request_id].tokens.extend(event.tokens)
            case Rejected(request_id, error):
                self.rejected[request_id] = error

    def run(self, requests: Iterable[Request]) -> dict[str, Outcome]:
        for request in requests:
            self.inbox.put(Submit(request))
        return self.drain()

    def drain(self) -> dict[str, Outcome]:
        while not (self.loop.idle and self.inbox.empty()):
            self.loop.turn()
        if isinstance(self.runner, RecordingRunner):
            for request_id, logits in self.runner.by_request().items():
                self.outcomes[request_id].logits = logits
        return self.outcomes


@pytest.fixture
def bench(weights: Weights) -> Iterable[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**changes: object) -> Bench:
        made.append(Bench(weights, **changes))
        return made[-1]

    yield make
    for each in made:
        each.runner.close()


@pytest.fixture
def request_of() -> Callable[..., Request]:
    """request_of(name, prompt, **sampling): greedy and 12 tokens long unless told otherwise."""

    def make(
        name: str, prompt: Iterable[int], priority: int = 0, salt: str = "", **sampling: object
    ) -> Request:
        params = SamplingParams(**({"max_tokens": 12, "temperature": 0.0} | sampling))
        return Request(name, tuple(prompt), params, priority, salt)

    return make


@pytest.fixture(scope="session")
def bench_class() -> type[Bench]:
    return Bench
