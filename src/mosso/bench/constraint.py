"""What constraints cost: decode steps of the same requests with and without one, in turns.

Runs with and without alternate, and each is compared with its neighbour: machines change their speed by more
than a constraint costs, within seconds. The median of these comparisons counts. The form is one that never
ends: a list of records.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from mosso.bench.engine import SETTLE, Drive, Shape, full_steps, make_requests
from mosso.core.config import ModelConfig
from mosso.core.constraints import Grammar, GrammarKind, TurnConstraint
from mosso.core.errors import UsageError
from mosso.core.requests import Request

FEWEST = 100_000  # records: more than any context holds
RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["person", "place", "thing"]},
        "size": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "at": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
               "required": ["x", "y"], "additionalProperties": False},
    },
    "required": ["name", "kind", "size", "tags", "at"],
    "additionalProperties": False,
}  # fmt: skip
"""What `--constraint json` means: strings, numbers, a union of words, a list, an object in an object."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Decode steps with all rows: the median run's medians, in seconds, and what the constraint adds."""

    batch: int
    prompt: int
    output: int
    runs: int  # of each kind
    steps: int  # of each kind that counted, at least
    free: float
    constrained: float
    share: float  # the constraint's, of a free step: the median of the pairs of runs
    quartiles: tuple[float, float]  # of the pairs' shares


def endless(schema: dict[str, Any]) -> Grammar:
    """Records of this schema without end."""
    form = {"type": "array", "items": schema, "minItems": FEWEST}
    if "$defs" in schema:
        form["$defs"] = schema["$defs"]  # the records' references begin at the root
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(form), "--constraint")


async def measure_overhead(
    drive: Drive, config: ModelConfig, shape: Shape, schema: dict[str, Any], runs: int
) -> Overhead:
    """Each run has prompts of its own, the same for both kinds. Raises UsageError for too few steps."""
    form = TurnConstraint(endless(schema))
    steps: dict[bool, list[list[float]]] = {False: [], True: []}  # by run
    for run in range(runs):
        for formed in (run % 2 == 0, run % 2 == 1):
            requests = tuple(make_requests(config, shape, seed=2 * run + formed))
            arrivals = await drive(held(requests, form) if formed else requests)
            steps[formed].append(full_steps(arrivals)[SETTLE:])
    if not all(map(all, steps.values())):
        raise UsageError(f"batch {shape.batch}: too few steps had all rows; give a larger --output")
    free, constrained = ([median(run) for run in steps[formed]] for formed in (False, True))
    shares = sorted(c / f - 1 for c, f in zip(constrained, free, strict=True))
    return Overhead(
        shape.batch,
        shape.prompt,
        shape.output,
        runs,
        min(sum(map(len, kind)) for kind in steps.values()),
        median(free),
        median(constrained),
        median(shares),
        (shares[len(shares) // 4], shares[-1 - len(shares) // 4]),
    )


def held(requests: Sequence[Request], form: TurnConstraint) -> tuple[Request, ...]:
    """The requests in this form from their first token on: without thinking."""
    return tuple(replace(request, constraint=form, thinking_budget=0) for request in requests)
