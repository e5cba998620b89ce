"""Functions named like the model's own tools: another name on the way in, their own on the way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mosso_fakes import harmony

from mosso.api.caller import Caller
from mosso.api.chat_schema import ChatRequest
from mosso.api.tool_calls import function_name, recipient, shown_name

NAMES = st.lists(st.sampled_from(["user_", "python", "browser", "functions", "x", "user"]), min_size=1).map(
    "".join
)


@given(NAMES, NAMES)
def test_no_name_is_lost_or_shared(one, other):
    assert function_name(recipient(one)) == one
    assert (shown_name(one) == shown_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["python", "browser", "container", "functions", "assistant"])
def test_names_the_model_knows_otherwise(name):
    assert recipient(name) == f"functions.user_{name}"
    assert recipient(f"user_{name}") == f"functions.user_user_{name}"
    assert function_name(name) == name  # what it calls all the same, without being offered it


async def test_a_conversation_with_a_function_called_python(make, tokenizer):
    """Golden prompt: definition, call and result go by one name, and the client never sees it."""
    call = '<|channel|>commentary to=functions.user_python <|constrain|>json<|message|>{"code":"1"}<|call|>'
    services, _ = make(call)
    tool = {"name": "python", "parameters": {"type": "object", "properties": {"code": {"type": "string"}}}}
    asked = [{"role": "user", "content": "hi"}]
    body = {"messages": asked, "tools": [{"type": "function", "function": tool}]}
    job = services.chat.prepare(ChatRequest.model_validate(body), Caller())
    chunks = b"".join([b"".join(batch) async for batch in services.chat.stream(job, lambda usage: None)])
    assert b'"name":"python"' in chunks
    assert b"user_python" not in chunks
    made = {"id": "call_1", "type": "function", "function": {"name": "python", "arguments": '{"code":"1"}'}}
    asked += [{"role": "assistant", "content": None, "tool_calls": [made]}]
    asked += [{"role": "tool", "tool_call_id": "call_1", "content": "1"}]
    prompt = services.chat.prepare(ChatRequest.model_validate(body), Caller()).requests[0].prompt
    text = tokenizer.decode(prompt, control=True)
    assert "type user_python = (_: {\n" in text
    turn = (
        "<|start|>assistant to=functions.user_python<|channel|>commentary <|constrain|>json<|message|>"
        '{"code":"1"}'
        "<|call|><|start|>functions.user_python to=assistant<|channel|>commentary<|message|>1<|end|>"
        "<|start|>assistant"
    )
    assert prompt[-len(harmony(tokenizer, turn)) :] == harmony(tokenizer, turn)
