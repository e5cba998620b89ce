"""What schemathesis must know about this API beyond its OpenAPI document."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

LONGEST = 24  # tokens of an answer: this is no test of the model
_LIMITS = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
# How mosso's refusals begin where a value breaks the schema itself.
_BREACH = re.compile(r"Invalid value for '|Unrecognized request argument|Missing required parameter")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Valid bodies ask for the served model and for short answers, so that they come to be answered."""
    if not isinstance(case.body, dict) or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if "model" in case.body:
        case.body["model"] = "demo"
    limit = _LIMITS.get(case.path)
    if limit is not None and not case.body.get("max_tokens"):
        case.body[limit] = min(case.body.get(limit) or LONGEST, LONGEST)
    if case.path in ("/api/chat", "/api/generate"):
        case.body["options"] = (case.body.get("options") or {}) | {"num_predict": LONGEST}


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """A schema cannot say all rules between fields, or that text is a grammar: such a refusal is right.

    What it must not be is a refusal for the shape of the body, of which the schema is the whole truth.
    """
    if failure.code != "ST202" or response.status_code != 400:
        return True
    error = response.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    return _BREACH.match(message) is not None
