"""What is learned from steps that took some time, and what is allowed after it."""

import random

import pytest

from mosso.scheduler.pace import FORGET_SECONDS, Pace, StepSize


class Machine:
    """Steps of a machine whose step with n rows takes 1 + (n - 1) / 2 seconds."""

    def __init__(self, max_rows=16, max_slowdown=None):
        self.now = 0.0
        self.cost = lambda rows: 1 + (rows - 1) / 2
        self.pace = Pace(max_rows, max_slowdown, lambda: self.now)

    def decode(self, rows, seconds=None, steps=1):
        for _ in range(steps):
            took = self.cost(rows) if seconds is None else seconds
            self.now += 0.001
            self.pace.step_ended(StepSize(rows, rows, rows), took)

    def prefill(self, tokens, seconds, beside=0):
        self.pace.step_ended(StepSize(beside + 1, beside, beside + tokens), seconds)


def test_nothing_is_known_at_first():
    pace = Machine().pace
    assert (pace.answer_seconds, pace.prompt_token_seconds, pace.row_limit()) == (0.0, 0.0, 16)


def test_an_answer_takes_its_share_of_the_steps_of_a_full_engine():
    machine = Machine(max_rows=4)
    machine.decode(4, steps=5)
    machine.pace.answered(20)
    assert machine.pace.answer_seconds == pytest.approx(20 * 2.5 / 4)


def test_answers_are_averaged_the_latest_ones_most():
    machine = Machine(max_rows=1)
    machine.decode(1)
    machine.pace.answered(10)
    machine.pace.answered(30)
    assert 20 < machine.pace.answer_seconds < 20.3
    for _ in range(300):
        machine.pace.answered(50)
    assert machine.pace.answer_seconds == pytest.approx(50, abs=0.5)


def test_a_prompts_token_takes_what_its_steps_took():
    machine = Machine()
    machine.prefill(100, 2.0)
    assert machine.pace.prompt_token_seconds == 0.02
    machine.prefill(96, 2.0, beside=4)
    assert machine.pace.prompt_token_seconds == 0.02
    machine.decode(3)
    assert machine.pace.prompt_token_seconds == 0.02


def test_without_a_bound_all_rows_may_run():
    machine = Machine()
    machine.decode(16, seconds=1000)
    assert machine.pace.row_limit() == 16


def test_one_runs_until_it_is_known_how_fast_one_is_alone():
    machine = Machine(max_slowdown=2)
    assert machine.pace.row_limit() == 1
    machine.prefill(100, 2.0)
    assert machine.pace.row_limit() == 1
    machine.decode(1)
    assert machine.pace.row_limit() == 2


@pytest.mark.parametrize(("slowdown", "limit"), [(1.0, 1), (1.4, 1), (1.5, 2), (2.0, 3), (4.1, 7), (99, 16)])
def test_rows_are_tried_one_by_one_until_streams_are_as_slow_as_they_may_be(slowdown, limit):
    machine = Machine(max_slowdown=slowdown)
    tried = []
    while not tried or tried[-1] != machine.pace.row_limit():
        tried.append(machine.pace.row_limit())
        machine.decode(tried[-1])
    assert machine.pace.row_limit() == limit
    assert max(tried) <= limit + 2


def test_prompts_beside_streams_slow_them_down_too():
    machine = Machine(max_slowdown=2)
    for rows in (1, 2, 3):
        machine.decode(rows, steps=4)
    assert machine.pace.row_limit() == 4
    machine.prefill(100, 9.0, beside=2)
    assert machine.pace.row_limit() == 2


def test_a_slow_step_now_and_then_does_not_change_much():
    machine = Machine(max_slowdown=2)
    for rows in (1, 2, 3, 4):
        machine.decode(rows, steps=100)
    machine.decode(2, seconds=10)
    machine.decode(1, seconds=3)
    assert machine.pace.row_limit() == 3


def test_between_two_known_numbers_of_rows_the_truth_is_on_their_line():
    machine = Machine(max_slowdown=2)
    machine.decode(1)
    machine.decode(5)  # 3 seconds; 2 would be reached at 3 rows
    assert machine.pace.row_limit() == 3


def test_what_was_too_much_is_tried_again_after_a_while():
    machine = Machine(max_slowdown=2)
    for rows in (1, 2, 3, 4):
        machine.decode(rows)
    machine.cost = lambda rows: 1
    assert machine.pace.row_limit() == 3
    machine.now += FORGET_SECONDS + 1
    machine.decode(3)
    assert machine.pace.row_limit() == 4
    machine.decode(4)
    assert machine.pace.row_limit() == 5


def test_a_stream_alone_remains_the_measure():
    machine = Machine(max_slowdown=2)
    machine.decode(1)
    machine.now += 100 * FORGET_SECONDS
    machine.decode(3, seconds=1.9)
    machine.decode(4, seconds=2.1)
    assert machine.pace.row_limit() == 3


@pytest.mark.parametrize("max_rows", [1, 2, 8, 9, 64, 512])
def test_any_number_of_rows_is_learned_from(max_rows):
    machine = Machine(max_rows, max_slowdown=1e9)
    rng = random.Random(max_rows)
    for rows in range(1, max_rows + 1):
        machine.decode(rows)
    assert machine.pace.row_limit() == max_rows
    for _ in range(100):
        machine.decode(rng.randint(1, max_rows), steps=3)
    assert machine.pace.row_limit() == max_rows


def test_a_stall_of_a_stream_alone_does_not_let_more_rows_run():
    """It may be long until a stream is alone again: the measure must not come from a bad moment."""
    machine = Machine(max_slowdown=2)
    machine.decode(1, steps=20)
    machine.decode(1, seconds=50, steps=3)
    for rows in (2, 3, 4):
        machine.decode(rows, steps=5)
    assert machine.pace.row_limit() == 3
