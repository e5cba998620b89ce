"""A device that verifies plans as it runs them, and a loop that drives it beside a scheduler.

The model is a hash: the KV of a position is the chained hash of salt and tokens up to it, and the next
token follows from the last position's. A page that is shared wrongly, reused too early or not computed
shows as KV that is not the hash of the tokens before it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

import pytest

from mosso.core.requests import FinishReason, Request, TokenEvent, TokenLogprob
from mosso.core.steps import RowStart, RowWork, StepPlan, StepResult
from mosso.scheduler import Scheduler, SchedulerConfig

VOCAB = 40
MASK = (1 << 61) - 1


def chain(before: int, token: int) -> int:
    return (before * 1_000_003 + token * 7_919 + 12_345) & MASK


def root(request: Request) -> int:
    return crc32(request.cache_salt.encode()) + 1


def sample(state: int, request: Request, generated: int) -> int:
    """The model's choice, with stop ids masked before min_tokens."""
    token = (state ^ (state >> 17)) % VOCAB
    while token in request.sampling.stop_ids and generated + 1 < request.sampling.min_tokens:
        token = (token + 1) % VOCAB
    return token


def run_alone(request: Request, context: int) -> tuple[tuple[int, ...], FinishReason]:
    """The definition: what a request gets when it has a machine of any size to itself."""
    state = root(request)
    for token in request.prompt:
        state = chain(state, token)
    tokens: list[int] = []
    while True:
        tokens.append(sample(state, request, len(tokens)))
        state = chain(state, tokens[-1])
        if tokens[-1] in request.sampling.stop_ids and len(tokens) >= request.sampling.min_tokens:
            return tuple(tokens), FinishReason.STOP
        if len(tokens) == request.sampling.max_tokens or len(request.prompt) + len(tokens) == context:
            return tuple(tokens), FinishReason.LENGTH


@dataclass
class Row:
    request: Request
    tokens: list[int]
    computed: int
    full: list[int]
    window: dict[int, int]
    states: list[int]  # states[i]: after tokens[:i]

    def state(self, position: int) -> int:
        """What the KV of `position` must be."""
        while len(self.states) <= position + 1:
            self.states.append(chain(self.states[-1], self.tokens[len(self.states) - 1]))
        return self.states[position + 1]


class Device:
    """Runs each plan when it is launched: steps run in order, whatever the host knows by then."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.rows: dict[int, Row] = {}
        self.full: dict[tuple[int, int], int] = {}  # (page, offset) → KV
        self.window: dict[tuple[int, int], int] = {}
        self.last_step = -1
        self.computed = 0

    def run(self, plan: StepPlan) -> StepResult:
        assert plan.step > self.last_step
        self.last_step = plan.step
        assert plan.work
        assert plan.num_tokens <= self.config.token_budget
        self.computed += plan.num_tokens
        for row in plan.releases:
            del self.rows[row]
        for start in plan.starts:
            self._start(start)
        assert {s.row for s in plan.starts} <= {w.row for w in plan.work}
        assert len({w.row for w in plan.work}) == len(plan.work)
        written: set[tuple[str, int, int]] = set()
        for work in plan.work:
            self._write(work, written)
        for work in plan.work:
            self._read(work)
        return self._sample(plan)

    def _start(self, start: RowStart) -> None:
        assert start.row not in self.rows
        assert 0 <= start.row < self.config.max_rows
        assert start.tokens[: len(start.request.prompt)] == start.request.prompt
        assert start.cached < len(start.tokens)
        assert len(start.full_pages) * self.config.page_size == start.cached
        self.rows[start.row] = Row(
            start.request,
            list(start.tokens),
            start.cached,
            list(start.full_pages),
            dict(start.window_pages),
            [root(start.request)],
        )

    def _write(self, work: RowWork, written: set[tuple[str, int, int]]) -> None:
        row, size = self.rows[work.row], self.config.page_size
        end = work.start + work.count
        assert work.start == row.computed
        assert work.count > 0
        assert end <= len(row.tokens)
        row.computed = end
        row.full += work.new_full_pages
        assert [logical for logical, _ in work.new_window_pages] == [
            *range(len(row.full) - len(work.new_full_pages), len(row.full))
        ]
        row.window.update(work.new_window_pages)
        assert len(row.full) == -(-end // size), "not more pages than the positions need"
        for position in range(work.start, end):
            page, offset = divmod(position, size)
            places = (("full", row.full[page], offset), ("window", row.window[page], offset))
            assert written.isdisjoint(places)
            written.update(places)
            self.full[places[0][1:]] = self.window[places[1][1:]] = row.state(position)

    def _read(self, work: RowWork) -> None:
        row, size = self.rows[work.row], self.config.page_size
        for position in range(row.computed):
            page, offset = divmod(position, size)
            assert self.full.get((row.full[page], offset)) == row.state(position)
        for position in range(max(0, work.start - self.config.window + 1), row.computed):
            page, offset = divmod(position, size)
            assert self.window.get((row.window[page], offset)) == row.state(position)

    def _sample(self, plan: StepPlan) -> StepResult:
        rows, tokens, logprobs = [], [], []
        for work in plan.work:
            row = self.rows[work.row]
            assert work.samples == (row.computed == len(row.tokens))
            if not work.samples:
                continue
            generated = len(row.tokens) - len(row.request.prompt)
            token = sample(row.state(row.computed - 1), row.request, generated)
            row.tokens.append(token)
            rows.append(work.row)
            tokens.append(token)
            wants = row.request.sampling.logprobs is not None
            logprobs.append(TokenLogprob(token, -float(token)) if wants else None)
        return StepResult(plan.step, tuple(rows), tuple(tokens), tuple(logprobs))


@dataclass
class Loop:
    """The engine's loop: `depth` steps may run while the next one is planned."""

    config: SchedulerConfig
    depth: int = 0
    now: float = 0.0
    seconds: Callable[[StepPlan | None], float] = lambda plan: 1.0  # that a turn takes
    lost: int = 0  # steps that failures took away
    plans: list[StepPlan] = field(default_factory=list)
    events: dict[str, list[TokenEvent]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.config, lambda: self.now)
        self.device = Device(self.config)
        self.running: deque[StepResult] = deque()

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.scheduler.add(request)
        self.scheduler.check()

    def abort(self, request_id: str) -> list[TokenEvent]:
        events = self.scheduler.abort(request_id)
        self._take(events)
        return events

    def fail(self) -> None:
        """The device loses its memory and the steps under way; rows are known still."""
        self.device.full.clear()
        self.device.window.clear()
        self.lost += len(self.running)
        self.running.clear()
        self._take(self.scheduler.fail("out of memory"))

    def step(self) -> StepPlan | None:
        """Plan and launch a step, then take the results that the depth does not leave running."""
        plan = self.scheduler.plan()
        self.scheduler.check()
        if plan is not None:
            self.plans.append(plan)
            self.running.append(self.device.run(plan))
        self.now += self.seconds(plan)
        if self.running and (plan is None or len(self.running) > self.depth):
            self._take(self.scheduler.update(self.running.popleft()))
        return plan

    def drain(self, limit: int = 10_000) -> None:
        for _ in range(limit):
            if not self.scheduler.has_work and not self.running:
                return
            self.step()
        raise AssertionError("no end in sight")

    def _take(self, events: list[TokenEvent]) -> None:
        self.scheduler.check()
        for event in events:
            stream = self.events[event.request_id]
            assert not stream or stream[-1].finish is None, "an event after the last one"
            assert not stream or event.cached_tokens == 0, "only the first event says what was cached"
            stream.append(event)

    def tokens(self, request_id: str) -> tuple[int, ...]:
        return tuple(token for event in self.events[request_id] for token in event.tokens)

    def finish(self, request_id: str) -> FinishReason | None:
        return self.events[request_id][-1].finish if self.events[request_id] else None

    def verify(self, request: Request) -> None:
        """The stream is what the request gets alone; one that was cut off is a beginning of it."""
        tokens, finish = run_alone(request, self.config.context)
        if self.finish(request.id) in (FinishReason.ABORT, FinishReason.ERROR):
            assert self.tokens(request.id) == tokens[: len(self.tokens(request.id))]
        else:
            assert (self.tokens(request.id), self.finish(request.id)) == (tokens, finish)


@pytest.fixture
def make_config() -> Callable[..., SchedulerConfig]:
    sizes = {
        "page_size": 4,
        "full_pages": 64,
        "window_pages": 64,
        "window": 8,
        "max_rows": 8,
        "token_budget": 64,
        "max_context": 128,
    }
    return lambda **changes: SchedulerConfig(**{**sizes, **changes})


@pytest.fixture
def make_loop(make_config: Callable[..., SchedulerConfig]) -> Callable[..., Loop]:
    return lambda depth=0, **changes: Loop(make_config(**changes), depth)
