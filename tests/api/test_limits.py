"""What is too much in one request: named, and found out cheaply."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from mosso.api.chat_schema import ChatRequest
from mosso.api.completion_schema import CompletionRequest
from mosso.api.messages_schema import MessagesRequest
from mosso.api.ollama_schema import OllamaChatRequest
from mosso.api.responses_schema import ResponsesRequest
from mosso.api.text import TokenizeRequest
from mosso.api.tool_calls import MAX_SCHEMA_CHARS, MAX_SCHEMA_DEPTH, check_schema
from mosso.api.wire import MAX_FIELDS, MAX_MESSAGES, parse_request
from mosso.core.errors import RequestError

HI = {"role": "user", "content": "hi"}
BODIES = {
    ChatRequest: {"messages": [HI]},
    CompletionRequest: {"prompt": "hi"},
    MessagesRequest: {"model": "test", "messages": [HI], "max_tokens": 1},
    OllamaChatRequest: {"model": "test", "messages": [HI]},
    ResponsesRequest: {"input": "hi"},
    TokenizeRequest: {"messages": [HI]},
}


def parsed(kind, **fields):
    return parse_request(kind, json.dumps(BODIES[kind] | fields).encode())


def refusal(kind, **fields) -> RequestError:
    with pytest.raises(RequestError) as raised:
        parsed(kind, **fields)
    return raised.value


@pytest.mark.parametrize("kind", [ChatRequest, MessagesRequest, OllamaChatRequest, TokenizeRequest])
def test_messages_of_a_conversation(kind):
    assert parsed(kind, messages=[HI] * 100)
    error = refusal(kind, messages=[HI] * (MAX_MESSAGES + 1))
    assert error.param == "messages"
    assert str(MAX_MESSAGES) in error.message


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatRequest, {"messages": [0] * 1000}),
        (ChatRequest, {"messages": [{"role": "user", "content": [0] * 1000}]}),
        (ChatRequest, {"stop": [0] * 1000}),
        (CompletionRequest, {"prompt": [{}] * 1000}),
        (MessagesRequest, {"messages": [{"role": "user", "content": [0] * 1000}]}),
        (ResponsesRequest, {"tools": [{}] * 1000}),
    ],
)
def test_a_list_of_mistakes_is_read_up_to_the_first(kind, fields):
    with pytest.raises(ValidationError) as raised:
        kind.model_validate(BODIES[kind] | fields)
    assert raised.value.error_count() < 10


def test_fields_of_an_object():
    many = {str(n): 0.5 for n in range(MAX_FIELDS)}
    assert parsed(ChatRequest, logit_bias=many)
    error = refusal(ChatRequest, logit_bias=many | {"x": 1})
    assert (error.param, error.code) == ("logit_bias", "object_too_large")
    assert refusal(ChatRequest, messages=[HI | many | {"x": 1}]).param == "messages"
    assert refusal(ChatRequest, **many).code == "object_too_large"
    assert parsed(ChatRequest, messages=[{"role": "user", "content": "," * 2 * MAX_FIELDS}])


def test_whole_numbers_that_are_written_as_floats_wherever_they_are():
    assert parsed(ChatRequest, stop_token_ids=[1.0, 2, 3.0], n=2.0, top_k=5.0).stop_token_ids == [1, 2, 3]
    assert parsed(CompletionRequest, prompt=[[1.0, 2.0], [3.0, 4]]).prompt == [[1, 2], [3, 4]]
    assert refusal(ChatRequest, stop_token_ids=[1.0, 2.5]).param == "stop_token_ids[1]"


def nested(levels: int) -> dict:
    """A schema that is so many objects deep."""
    schema: dict = {"type": "object"}
    for _ in range((levels - 1) // 2):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def test_depth_and_size_of_a_schema():
    check_schema(nested(MAX_SCHEMA_DEPTH), "s")
    with pytest.raises(RequestError, match="deeper than 64 levels") as raised:
        check_schema(nested(MAX_SCHEMA_DEPTH + 1), "s")
    assert raised.value.param == "s"
    large = {"type": "object", "description": "x" * MAX_SCHEMA_CHARS}
    with pytest.raises(RequestError, match=f"longer than {MAX_SCHEMA_CHARS} characters"):
        check_schema(large, "s")
    wide = {"type": "object", "properties": {f"a{n}": {"type": "string"} for n in range(2000)}}
    check_schema(wide, "s")
