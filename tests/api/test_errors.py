import json

import pytest

from mosso.api.errors import error_json, status_of
from mosso.core.errors import (
    EngineError,
    MossoError,
    NotFoundError,
    OverloadedError,
    RequestError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (RequestError("m", param="p", code="c"), 400, "invalid_request_error", "c"),
        (UnsupportedError("m", param="p"), 400, "invalid_request_error", None),
        (NotFoundError("m"), 404, "invalid_request_error", None),
        (TooLargeError("m"), 413, "invalid_request_error", None),
        (OverloadedError("m"), 429, "rate_limit_error", "rate_limit_exceeded"),
        (UnavailableError("m"), 503, "service_unavailable_error", None),
        (EngineError("m"), 500, "server_error", None),
        (MossoError("m"), 500, "server_error", None),
    ],
)
def test_every_error_has_a_status_and_openais_shape(error, status, kind, code):
    assert status_of(error) == status
    detail = json.loads(error_json(error))["error"]
    assert detail == {"message": "m", "type": kind, "param": getattr(error, "param", None), "code": code}
