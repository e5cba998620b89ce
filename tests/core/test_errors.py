"""Errors travel between processes: each one arrives as it left, with its sentence and what it names."""

import copy
import inspect
import pickle
import re

import pytest

from mosso.core import errors
from mosso.core.errors import (
    CheckpointError,
    EngineError,
    MossoError,
    NotFoundError,
    OverloadedError,
    QuotaError,
    RequestError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)

EXAMPLES = [
    MossoError("something"),
    UsageError("no such folder"),
    CheckpointError("is cut off", file="model-1.safetensors", tensor="embedding.weight"),
    CheckpointError("is no checkpoint"),
    RequestError("must be positive", param="max_tokens", code="invalid_value"),
    RequestError("is wrong"),
    UnsupportedError("is not supported", param="audio"),
    NotFoundError("there is no such model", param="model", code="model_not_found"),
    TooLargeError("the body is too large"),
    OverloadedError("the queue is full", retry_after=2.5),
    OverloadedError("the queue is full"),
    QuotaError("all tokens are used"),
    QuotaError("the prompt is over the limit", code="rate_limit_exceeded"),
    UnauthorizedError("no key", code="invalid_api_key"),
    UnavailableError("the engine is starting"),
    EngineError("the engine ran out of memory"),
]


def every_error():
    return {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MossoError)}


def state(error):
    return type(error), str(error), error.args, vars(error)


def test_every_error_of_the_tree_has_an_example_here():
    assert {type(error) for error in EXAMPLES} == every_error()


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(error, protocol):
    assert state(pickle.loads(pickle.dumps(error, protocol))) == state(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_two_processes_and_a_copy(error):
    twice = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert state(twice) == state(copy.copy(error)) == state(error)


def test_notes_travel_too():
    error = CheckpointError("is cut off", file="a")
    error.add_note("while loading layer 3")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while loading layer 3"]


def test_the_tree_is_the_one_that_its_docstring_draws():
    drawn, path = {}, []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"    ([ │├└─]*)(\w+Error)\b", line):
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in every_error()}


def test_a_message_is_the_sentence_that_a_person_reads():
    for error in EXAMPLES:
        assert error.message == str(error)


def test_a_checkpoint_error_names_file_and_tensor():
    assert str(CheckpointError("is cut off", file="f", tensor="t")) == "f, tensor t: is cut off"
    assert str(CheckpointError("is cut off", tensor="t")) == "tensor t: is cut off"
    assert str(CheckpointError("is cut off")) == "is cut off"
    error = CheckpointError("is cut off", file="f")
    assert (error.file, error.tensor) == ("f", None)


def test_a_request_error_names_the_parameter_and_an_overload_the_time():
    error = RequestError("must be positive", param="n", code="invalid_value")
    assert (error.param, error.code) == ("n", "invalid_value")
    assert (RequestError("is wrong").param, RequestError("is wrong").code) == (None, None)
    assert OverloadedError("full").retry_after == 1.0
    assert OverloadedError("full", retry_after=3).retry_after == 3
