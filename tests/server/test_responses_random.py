"""Whatever is sent to /v1/responses, the answer is a whole one or a refusal that names something."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image"])},
    optional={"text": st.text(max_size=5), "refusal": st.text(max_size=5), "annotations": JSON},
)
CALL_ID = st.sampled_from(["a", "b", ""])
ITEM = st.one_of(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
            "content": st.text(max_size=9) | st.lists(PART, max_size=2),
        },
        optional={"type": st.just("message"), "id": st.text(max_size=3), "phase": st.just("commentary")},
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("function_call"),
            "call_id": CALL_ID,
            "name": st.text(max_size=5),
            "arguments": st.text(max_size=5),
        },
        optional={"parsed_arguments": JSON, "status": JSON},
    ),
    st.fixed_dictionaries(
        {"type": st.just("function_call_output"), "call_id": CALL_ID, "output": st.text(max_size=5) | JSON}
    ),
    st.fixed_dictionaries(
        {"type": st.just("reasoning"), "summary": st.just([])},
        optional={"encrypted_content": st.text(max_size=9), "content": st.lists(PART, max_size=1)},
    ),
    JSON,
)
TOOL = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "web_search", "mcp"])},
    optional={"name": st.sampled_from(["f", "g", "a b"]), "parameters": JSON, "strict": JSON},
)
BODY = st.fixed_dictionaries(
    {"input": st.text(max_size=9) | st.lists(ITEM, max_size=4) | JSON},
    optional={
        "model": st.sampled_from(["test", "gpt-4"]) | JSON,
        "instructions": st.text(max_size=5) | JSON,
        "previous_response_id": st.text(max_size=5) | JSON,
        "include": st.lists(st.sampled_from(["reasoning.encrypted_content", "x"]), max_size=2) | JSON,
        "max_output_tokens": st.integers(0, 9999) | JSON,
        "tools": st.lists(TOOL, max_size=2) | JSON,
        "truncation": st.sampled_from(["auto", "disabled", "x"]),
        "stream": st.booleans(),
        "background": st.booleans(),
        "store": st.booleans(),
        "text": JSON,
        "reasoning": JSON | st.fixed_dictionaries({"effort": st.sampled_from(["low", "none"])}),
        "metadata": JSON | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        "temperature": st.floats(-1, 3) | JSON,
        "top_logprobs": st.integers(-1, 25) | JSON,
    },
)


@settings(max_examples=200, deadline=None)
@given(BODY)
def test_random_bodies(server, body):
    answer = server.http.post("/v1/responses", content=json.dumps(body).encode())
    assert answer.status_code in (200, 400, 404)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"]
        assert error["param"] is not None or error["code"] == "invalid_json"
    elif not body.get("stream") and not body.get("background") and body.get("store"):
        kept = answer.json()
        listed = server.http.get(f"/v1/responses/{kept['id']}/input_items")
        assert listed.status_code == 200
        follow = {"input": "and", "previous_response_id": kept["id"]}
        assert server.post("/v1/responses", follow).status_code == 200


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=9),
    st.dictionaries(st.sampled_from(["limit", "order", "after", "stream"]), st.text(max_size=4)),
)
def test_random_queries(server, name, query):
    for path in ("", "/input_items"):
        answer = server.http.get(f"/v1/responses/resp_{name.encode().hex()}{path}", params=query)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["message"]
