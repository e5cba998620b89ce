import json

import pytest

from mosso.api.chat_schema import ChatRequest
from mosso.api.completion_schema import CompletionRequest
from mosso.api.wire import check_model, parse_request, path_text, read_json
from mosso.core.errors import NotFoundError, RequestError, UnsupportedError

USER = {"role": "user", "content": "hi"}


def refusal(body: dict, kind=ChatRequest) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_request(kind, json.dumps(body).encode())
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a":' * 300 + b"1" + b"}" * 300,
    ],
)
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(RequestError) as caught:
        read_json(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [USER, {"role": "user", "content": ["x"]}]}, "messages[1].content[0]"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{**USER, "mood": "good"}]}, "messages[0].mood"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"n": True}, "n"),
        ({"stop": [""]}, "stop[0]"),
        ({"logit_bias": {"5": 200}}, "logit_bias.5"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"store": True}, "store"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"nonsense": 1}, "nonsense"),
        ({"": 1}, ""),
    ],
)
def test_a_mistake_is_named_in_the_clients_own_words(fields, param):
    error = refusal({"model": "m", "messages": [USER]} | fields)
    assert error.param == param
    assert param in error.message


def test_unknown_arguments_have_openais_sentence():
    assert refusal({"messages": [USER], "foo": 1}).message == "Unrecognized request argument supplied: foo"


@pytest.mark.parametrize("name", ["functions", "function_call", "audio", "prediction", "web_search_options"])
def test_fields_of_the_dialect_that_are_missing_here(name):
    error = refusal({"messages": [USER], name: {}})
    assert isinstance(error, UnsupportedError)
    assert error.param == name


def test_suffix_is_refused():
    assert refusal({"prompt": "a", "suffix": "b"}, CompletionRequest).param == "suffix"


def test_null_means_not_given():
    body = {"messages": [USER], "n": None, "temperature": None, "functions": None, "stream": None}
    parsed = parse_request(ChatRequest, json.dumps(body).encode())
    assert parsed.n == 1
    assert not parsed.stream


def test_a_whole_number_may_be_written_with_a_point():
    body = {"messages": [USER], "max_tokens": 2.0, "stop_token_ids": [3.0, 4], "logit_bias": {"5": 1.0}}
    request = parse_request(ChatRequest, json.dumps(body).encode())
    assert (request.max_tokens, request.stop_token_ids) == (2, [3, 4])
    assert refusal({"messages": [USER], "max_tokens": 2.5}).param == "max_tokens"
    wrong = refusal({"messages": [USER], "n": 1.0, "max_tokens": -2.0})
    assert "greater than or equal to 1" in wrong.message


@pytest.mark.parametrize("value", [0, 0.0, True])
def test_a_switch_that_is_off_takes_false_alone(value):
    assert refusal({"messages": [USER], "store": value}).param == "store"


def test_the_schema_says_which_fields_may_be_null():
    schema = ChatRequest.model_json_schema()
    assert schema["properties"]["n"] == {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 128}, {"type": "null"}],
        "default": 1,
        "title": "N",
    }
    assert "anyOf" not in schema["properties"]["messages"]
    assert schema["additionalProperties"] == {"type": "null"}


def test_numbers_that_overflow_are_refused():
    with pytest.raises(RequestError) as caught:
        parse_request(ChatRequest, b'{"messages":[{"role":"user","content":"x"}],"temperature":1e999}')
    assert caught.value.param == "temperature"


@pytest.mark.parametrize(
    ("prompt", "param", "tells"),
    [
        ({"a": 1}, "prompt", "valid string"),
        ([-1], "prompt[0]", "greater"),
        ([[1], [-1]], "prompt[1][0]", "greater"),
    ],
)
def test_the_union_member_that_fits_best_complains(prompt, param, tells):
    error = refusal({"prompt": prompt}, CompletionRequest)
    assert error.param == param
    assert tells in error.message


def test_long_values_are_cut_in_messages():
    assert len(refusal({"messages": [USER], "service_tier": "x" * 1000}).message) < 250
    error = refusal({"messages": [USER], "k" * 1000: 1})
    assert len(error.message + error.param) < 250
    with pytest.raises(NotFoundError) as caught:
        check_model("m" * 1000, ("a",))
    assert len(caught.value.message) < 250


def test_path_text():
    assert path_text(("a", 0, "b", 1, 2)) == "a[0].b[1][2]"


def test_check_model():
    check_model(None, ("a",))
    check_model("b", ("a", "b"))
    with pytest.raises(NotFoundError) as caught:
        check_model("c", ("a", "b"))
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
