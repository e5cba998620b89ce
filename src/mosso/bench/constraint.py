"""What constraints cost: the time of a token with and without one, in turns.

A token's time is a row's, while all rows decode: the time from when the last request has its first few tokens
to when the first request ends, by the tokens that a row got meanwhile. Steps do not tell it: a constrained
row gets several tokens from one where its form leaves no choice.

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

from mosso.bench.engine import SETTLE, Arrivals, Drive, Shape, make_requests
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
    """A token's time while all rows decode, in seconds, the median run's, and what the constraint adds."""

    batch: int
    prompt: int
    output: int
    runs: int  # of each kind
    tokens: int  # of each kind that counted, at least
    free: float
    constrained: float
    share: float  # the constraint's, of a free token's time: the median of the pairs of runs
    quartiles: tuple[float, float]  # of the pairs' shares


@dataclass(frozen=True, slots=True)
class Rate:
    """What one run gave its rows while all of them decoded."""

    rows: int
    seconds: float
    tokens: int  # of all rows

    @classmethod
    def of(cls, arrivals: Arrivals) -> Rate:
        """Of a run whose requests have more than SETTLE tokens each."""
        begin = max(times[SETTLE] for times in arrivals.times)
        end = min(times[-1] for times in arrivals.times)
        tokens = sum(begin < time <= end for times in arrivals.times for time in times)
        return cls(len(arrivals.times), end - begin, tokens)

    @property
    def token(self) -> float:
        """Seconds from one token of a row to the next."""
        return self.seconds * self.rows / self.tokens


def endless(schema: dict[str, Any]) -> Grammar:
    """Records of this schema without end."""
    form = {"type": "array", "items": schema, "minItems": FEWEST}
    if "$defs" in schema:
        form["$defs"] = schema["$defs"]  # the records' references begin at the root
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(form), "--constraint")


async def measure_overhead(
    drive: Drive, config: ModelConfig, shape: Shape, schema: dict[str, Any], runs: int
) -> Overhead:
    """Each run has prompts of its own. Raises UsageError where too few tokens came while all rows decoded."""
    if shape.output <= SETTLE:
        raise UsageError(f"batch {shape.batch}: too few tokens to measure; give a larger --output")
    form = TurnConstraint(endless(schema))
    rates: dict[bool, list[Rate]] = {False: [], True: []}  # by run
    for run in range(runs):
        for formed in (run % 2 == 0, run % 2 == 1):
            requests = tuple(make_requests(config, shape, seed=2 * run + formed))
            arrivals = await drive(held(requests, form) if formed else requests)
            rates[formed].append(Rate.of(arrivals))
    if not all(rate.tokens for kind in rates.values() for rate in kind):
        raise UsageError(f"batch {shape.batch}: too few steps had all rows; give a larger --output")
    free, constrained = ([rate.token for rate in rates[formed]] for formed in (False, True))
    shares = sorted(c / f - 1 for c, f in zip(constrained, free, strict=True))
    return Overhead(
        shape.batch,
        shape.prompt,
        shape.output,
        runs,
        min(sum(rate.tokens for rate in kind) for kind in rates.values()),
        median(free),
        median(constrained),
        median(shares),
        (shares[len(shares) // 4], shares[-1 - len(shares) // 4]),
    )


def held(requests: Sequence[Request], form: TurnConstraint) -> tuple[Request, ...]:
    """The requests in this form from their first token on: without thinking."""
    return tuple(replace(request, constraint=form, thinking_budget=0) for request in requests)
