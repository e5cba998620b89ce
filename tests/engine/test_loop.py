"""The overlap loop with a runner that is a script: order of things, aborts, failures."""

from __future__ import annotations

import queue

import pytest

from mosso.core.errors import EngineError, OverloadedError
from mosso.core.requests import EngineLimits, FinishReason, TokenEvent
from mosso.core.steps import StepResult
from mosso.engine.loop import MAX_FAILURES, EngineLoop
from mosso.engine.messages import Abort, Batch, Rejected, Shutdown, Submit
from mosso.scheduler import Scheduler, SchedulerConfig


class FakeRunner:
    """Answers each step with tokens 1, 2, ...; remembers what was launched and awaited, in order."""

    def __init__(self):
        self.log = []
        self.failing = set()  # steps that raise
        self.lost = False
        self.resets = 0

    def launch(self, plan):
        self.log.append(("launch", plan.step))
        return FakePending(self, plan)

    def reset(self):
        self.resets += 1
        if self.lost:
            raise RuntimeError("device lost")

    def close(self):
        pass


class FakePending:
    def __init__(self, runner, plan):
        self.runner, self.plan = runner, plan

    def wait(self):
        self.runner.log.append(("wait", self.plan.step))
        if self.plan.step in self.runner.failing:
            raise RuntimeError("boom")
        rows = tuple(work.row for work in self.plan.work if work.samples)
        return StepResult(self.plan.step, rows, tuple(range(1, len(rows) + 1)), (None,) * len(rows))


class Harness:
    def __init__(self, **changes):
        sizes = {"page_size": 4, "full_pages": 64, "window_pages": 64, "window": 8}
        sizes |= {"max_rows": 2, "token_budget": 16, "max_context": 64} | changes
        self.runner = FakeRunner()
        self.inbox = queue.SimpleQueue()
        self.sent = []
        self.scheduler = Scheduler(SchedulerConfig(**sizes))
        limits = EngineLimits(64, 256, 2, 100)
        self.loop = EngineLoop(self.scheduler, self.runner, self.inbox, self.sent.append, limits, check=True)

    def put(self, *messages):
        for message in messages:
            self.inbox.put(message)

    def drain(self):
        while not (self.loop.idle and self.inbox.empty()):
            self.loop.turn()

    @property
    def events(self) -> list[TokenEvent]:
        return [event for message in self.sent if isinstance(message, Batch) for event in message.events]

    @property
    def stats(self):
        return [message for message in self.sent if isinstance(message, Batch)][-1].stats

    def finishes(self):
        return {event.request_id: event.finish for event in self.events if event.finish}


@pytest.fixture
def harness():
    return Harness


def test_the_next_step_is_launched_before_the_last_is_awaited(harness, request_of):
    h = harness()
    h.put(Submit(request_of("a", [1, 2, 3], max_tokens=4)))
    h.drain()
    assert h.runner.log == [
        ("launch", 0),
        ("launch", 1),
        ("wait", 0),
        ("launch", 2),
        ("wait", 1),
        ("launch", 3),
        ("wait", 2),
        ("wait", 3),
    ]
    assert [event.tokens for event in h.events] == [(1,)] * 4
    assert h.finishes() == {"a": FinishReason.LENGTH}
    assert h.stats.kv_blocks_held == 0


def test_one_batch_for_each_step_holds_every_requests_event(harness, request_of):
    h = harness()
    h.put(Submit(request_of("a", [1], max_tokens=3)), Submit(request_of("b", [2], max_tokens=3)))
    h.drain()
    sizes = [len(message.events) for message in h.sent if isinstance(message, Batch)]
    assert sum(sizes) == 6
    assert max(sizes) == 2


def test_abort_ends_the_stream_and_frees_its_pages(harness, request_of):
    h = harness()
    h.put(Submit(request_of("a", [1, 2, 3], max_tokens=50)), Submit(request_of("b", [4], max_tokens=5)))
    for _ in range(3):
        h.loop.turn()
    h.put(Abort("a"), Abort("unknown"))
    h.drain()
    assert h.finishes() == {"a": FinishReason.ABORT, "b": FinishReason.LENGTH}
    assert h.stats.kv_blocks_held == 0
    assert (h.stats.running, h.stats.waiting) == (0, 0)


def test_a_full_queue_rejects(harness, request_of):
    h = harness(max_waiting=1, max_rows=1)
    h.put(*(Submit(request_of(name, [1])) for name in "abc"))
    h.drain()
    rejected = {m.request_id: m.error for m in h.sent if isinstance(m, Rejected)}
    assert set(rejected) == {"b", "c"}
    assert all(isinstance(error, OverloadedError) for error in rejected.values())
    assert h.finishes() == {"a": FinishReason.LENGTH}


def test_a_failing_step_ends_what_ran_and_the_engine_goes_on(harness, request_of, capsys):
    h = harness(max_rows=2)
    h.runner.failing = {2}
    h.put(*(Submit(request_of(name, [1, 2], max_tokens=9)) for name in "abc"))
    h.drain()
    assert h.finishes() == {"a": FinishReason.ERROR, "b": FinishReason.ERROR, "c": FinishReason.LENGTH}
    (error,) = {event.error for event in h.events if event.finish is FinishReason.ERROR}
    assert "RuntimeError: boom" in error
    assert h.runner.log.count(("wait", 3)) == 1, "the step launched behind the failed one is awaited too"
    assert h.runner.resets == 1
    assert h.stats.kv_blocks_held == 0
    assert "boom" in capsys.readouterr().err


def test_steps_that_keep_failing_end_the_engine(harness, request_of, capsys):
    h = harness(max_rows=1)
    h.runner.failing = set(range(100))
    h.put(*(Submit(request_of(str(i), [1])) for i in range(9)))
    with pytest.raises(EngineError, match=f"{MAX_FAILURES} steps in a row failed.*boom"):
        h.drain()


def test_failures_apart_from_each_other_do_not_end_the_engine(harness, request_of, capsys):
    h = harness(max_rows=1)
    h.runner.failing = {3, 9, 15, 21}
    h.put(*(Submit(request_of(str(i), [1], max_tokens=20)) for i in range(6)))
    h.drain()
    assert list(h.finishes().values()) == [FinishReason.ERROR] * 4 + [FinishReason.LENGTH] * 2


def test_a_lost_device_ends_the_engine(harness, request_of, capsys):
    h = harness()
    h.runner.failing, h.runner.lost = {1}, True
    h.put(Submit(request_of("a", [1])))
    with pytest.raises(RuntimeError, match="device lost"):
        h.drain()


def test_a_message_of_the_wrong_direction_is_a_bug(harness):
    h = harness()
    h.put(Shutdown())
    with pytest.raises(EngineError, match="Shutdown"):
        h.loop.turn()
