"""What constraints cost: the form never ends, both kinds take turns, and medians are compared."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from mosso.bench.constraint import RECORD, endless, held, measure_overhead
from mosso.bench.engine import Arrivals, Shape, make_requests
from mosso.core.constraints import TurnConstraint
from mosso.core.errors import UsageError

from .test_engine import CONFIG, SMALL, bench
from .test_engine import model as model


async def test_runs_take_turns_and_neighbours_are_compared():
    kinds, shape, speeds = [], Shape(2, 8, 20), [1, 3, 10, 1]

    async def drive(requests):
        formed = requests[0].constraint is not None
        assert {r.constraint is not None for r in requests} == {formed}
        assert all(r.thinking_budget == (0 if formed else None) for r in requests)
        kinds.append(formed)
        step = (3.0 if formed else 2.0) * speeds[(len(kinds) - 1) // 2 % 4]  # of the machine
        slow = [0.0, *(100.0 if at == 7 else step for at in range(shape.output - 1))]
        return Arrivals(0.0, [[sum(slow[: at + 1]) for at in range(shape.output)]] * shape.batch)

    found = await measure_overhead(drive, CONFIG, shape, RECORD, runs=4)
    assert kinds == [True, False, False, True, True, False, False, True]
    assert (found.free, found.constrained, found.share, found.quartiles) == (4.0, 6.0, 0.5, (0.5, 0.5))
    assert found.steps == 4 * (shape.output - 1 - 3)
    shape = Shape(2, 8, 4)
    with pytest.raises(UsageError, match="--output"):
        await measure_overhead(drive, CONFIG, shape, RECORD, runs=2)


def test_the_form():
    requests = tuple(make_requests(CONFIG, Shape(2, 8, 20)))
    form = json.loads(endless(RECORD | {"$defs": {"a": {"type": "null"}}}).text)
    Draft202012Validator.check_schema(form)
    assert form["$defs"] == {"a": {"type": "null"}}
    assert not Draft202012Validator(form).is_valid([{}])
    assert [r.prompt for r in held(requests, TurnConstraint(None))] == [r.prompt for r in requests]


def test_the_command(model, tmp_path):
    shape = ("--batch", "2", "--prompt", "8", "--output", "24", "--prefill-prompts", "0")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "integer"}')
    for constraint in ("json", schema):
        result = bench(model, *shape, "--inline", "--constraint", constraint, *SMALL)
        assert result.exit_code == 0, result.output
        assert "constrained ms" in result.output
        (row,) = json.loads(result.output.splitlines()[-1])["constraint"]
        assert row["constrained"] > 0
    for text in ("[", "[]"):
        schema.write_text(text)
        result = bench(model, *shape, "--constraint", schema, *SMALL)
        assert result.exit_code != 0
        assert "--constraint" in str(result.exception) + result.output
