"""Random schemas × random weights: what comes out is valid, or the construct that is refused is named.

A few of them here; a thousand with `MOSSO_SCHEMAS=1000 pytest -s tests/engine/test_random_schemas.py`.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mosso.core.constraints import TurnConstraint
from mosso.core.errors import RequestError
from mosso.core.requests import FinishReason

from .random_schemas import Schemas, constructs
from .test_constrained import asks, constrained, final_of, schema_of  # noqa: F401

COUNT = int(os.environ.get("MOSSO_SCHEMAS", "48"))
FIRST = int(os.environ.get("MOSSO_FIRST_SCHEMA", "0"))
AT_ONCE, ATTEMPTS = 16, 24
NAMED = re.compile(r'"([$\w]+)"|\b([a-z]+[A-Z]\w+)|\bformat: (\S+)')
"""In a message: what is quoted, or no word of English (`not` and `contains` are), or a format."""


@pytest.mark.timeout(120 + 2 * COUNT)
def test_valid_or_refused_by_name(constrained: Any) -> None:  # noqa: F811
    """A random model closes no list by itself: what max_tokens cuts is drawn again, and a little hotter."""
    bench = constrained(max_context=1024, full_pages=2048, window_pages=1024)
    schemas = {str(seed): Schemas(seed).make() for seed in range(FIRST, FIRST + COUNT)}
    left, refused, cut = dict(schemas), 0, 0
    for attempt in range(ATTEMPTS):
        names = list(left)
        for first in range(0, len(names), AT_ONCE):
            some = names[first : first + AT_ONCE]
            requests = [
                asks(
                    f"{name}.{attempt}",
                    TurnConstraint(schema_of(left[name])),
                    seed=attempt,
                    max_tokens=980,
                    temperature=1 + attempt / 4,
                )
                for name in some
            ]
            found = bench.run_all(requests)
            for name, request in zip(some, requests, strict=True):
                error = bench.rejected.get(request.id)
                if error is not None:
                    assert isinstance(error, RequestError)
                    assert error.param == "schema"
                    named = {word for words in NAMED.findall(error.message) for word in words}
                    assert named & constructs(left[name]), error.message
                    refused += 1
                    del left[name]
                elif found[request.id].finish is FinishReason.STOP:
                    answer = json.loads(final_of(found[request.id].tokens))
                    Draft202012Validator(left[name]).validate(answer)
                    del left[name]
                else:
                    assert found[request.id].finish is FinishReason.LENGTH
                    cut += attempt == 0
    assert not left, "never came to an end"
    assert refused < 0.3 * COUNT
    print(f"{COUNT} schemas: {COUNT - refused} answered validly, {refused} refused by name")
    print(f"{cut} first attempts were cut at max_tokens")
