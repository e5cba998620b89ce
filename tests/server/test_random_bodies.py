"""Whatever JSON comes, the answer is a whole one or a refusal that names something: never a 5xx."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(max_size=20) | st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=5)})
)
CALL = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b", ""]),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.text(max_size=6), "arguments": st.text(max_size=6)}),
    }
)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user"]), "content": TEXT}),
    st.fixed_dictionaries(
        {"role": st.just("assistant")},
        optional={
            "content": TEXT | st.none(),
            "reasoning": st.text(max_size=5),
            "tool_calls": st.lists(CALL, max_size=2),
            "refusal": st.none() | st.text(max_size=3),
        },
    ),
    st.fixed_dictionaries(
        {"role": st.just("tool"), "tool_call_id": st.sampled_from(["a", "b"]), "content": TEXT}
    ),
    JSON,
)
SCHEMA = JSON | st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(st.text(max_size=5), JSON, max_size=3)}
)
TOOL = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.sampled_from(["f", "g", "a b"]), "parameters": SCHEMA}),
    }
)
FIELDS = {
    "model": st.sampled_from(["test", "gpt-4"]) | JSON,
    "n": st.integers(-1, 4) | JSON,
    "temperature": st.floats(-1, 3, allow_nan=False) | JSON,
    "top_p": st.floats(0, 1) | JSON,
    "seed": st.integers() | JSON,
    "stop": st.lists(st.text(max_size=3), max_size=3) | JSON,
    "stop_token_ids": st.lists(st.integers(-1, 300), max_size=3),
    "logit_bias": st.dictionaries(st.integers(-1, 400).map(str), st.floats(-200, 200), max_size=3) | JSON,
    "max_tokens": st.integers(0, 5000) | JSON,
    "min_tokens": st.integers(0, 5000),
    "logprobs": st.booleans() | st.integers(0, 30) | JSON,
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}) | JSON,
    "unknown": JSON,
}
CHAT = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, max_size=4)},
    optional=FIELDS
    | {
        "tools": st.lists(TOOL, max_size=2) | JSON,
        "tool_choice": st.sampled_from(["auto", "none", "required"]) | JSON,
        "top_logprobs": st.integers(-1, 25) | JSON,
        "reasoning_effort": st.sampled_from(["low", "none"]) | JSON,
        "response_format": JSON,
    },
)
COMPLETION = st.fixed_dictionaries(
    {"prompt": st.text(max_size=20) | st.lists(st.integers(-1, 300), max_size=5) | JSON},
    optional=FIELDS | {"echo": st.booleans(), "best_of": JSON, "suffix": JSON},
)
ROUTES = st.one_of(
    st.tuples(st.just("/v1/chat/completions"), CHAT),
    st.tuples(st.just("/v1/completions"), COMPLETION),
    st.tuples(st.sampled_from(["/tokenize", "/detokenize", "/v1/completions", "/v1/chat/completions"]), JSON),
    st.tuples(st.just("/tokenize"), st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=3)})),
)


@settings(max_examples=150, deadline=None)
@given(ROUTES)
def test_random_bodies(server, route):
    path, body = route
    response = server.http.post(path, content=json.dumps(body).encode())
    assert response.status_code in (200, 400, 404)
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["message"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] is not None or error["code"] == "invalid_json"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes(server, body):
    assert server.http.post("/v1/chat/completions", content=body).status_code == 400
