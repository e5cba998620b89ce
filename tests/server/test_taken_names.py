"""A function called `python` in every dialect, through a whole conversation over a socket."""

import json

import pytest
from mosso_fakes import harmony, small_tokenizer

TOKENIZER = small_tokenizer()
SCHEMA = {"type": "object", "properties": {"code": {"type": "string"}}}
ARGUMENTS = {"code": "1+1"}
CALL = (
    "<|channel|>commentary to=functions.user_python <|constrain|>json<|message|>"
    + json.dumps(ARGUMENTS)
    + "<|call|>"
)


def script(request):
    """Calls the function by the name it was shown, then answers once it sees the result under that name."""
    prompt = TOKENIZER.decode(request.prompt, control=True)
    assert "type user_python = " in prompt
    seen = "<|start|>functions.user_python to=assistant<|channel|>commentary<|message|>2<|end|>" in prompt
    return harmony(TOKENIZER, "<|channel|>final<|message|>two<|return|>" if seen else CALL)


@pytest.fixture
def post(serve):
    server = serve(script)
    return lambda path, **body: server.post(path, body | {"stream": False}).json()


def test_chat(post):
    tools = [{"type": "function", "function": {"name": "python", "parameters": SCHEMA}}]
    messages = [{"role": "user", "content": "hi"}]
    message = post("/v1/chat/completions", messages=messages, tools=tools)["choices"][0]["message"]
    assert message["tool_calls"][0]["function"] == {"name": "python", "arguments": json.dumps(ARGUMENTS)}
    messages += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "2"}]
    answer = post("/v1/chat/completions", messages=messages, tools=tools)
    assert answer["choices"][0]["message"]["content"] == "two"


def test_a_forced_call_names_it(post):
    tools = [{"type": "function", "function": {"name": "python", "parameters": SCHEMA}}]
    choice = {"type": "function", "function": {"name": "python"}}
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": tools, "tool_choice": choice}
    assert post("/v1/chat/completions", **body)["choices"][0]["finish_reason"] == "tool_calls"


def test_responses(post):
    tools = [{"type": "function", "name": "python", "parameters": SCHEMA, "strict": True}]
    first = post("/v1/responses", input="hi", tools=tools)
    (call,) = first["output"]
    assert (call["name"], json.loads(call["arguments"])) == ("python", ARGUMENTS)
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
    answer = post("/v1/responses", input=[result], tools=tools, previous_response_id=first["id"])
    assert answer["output"][0]["content"][0]["text"] == "two"


def test_messages(post):
    body = {"model": "test", "max_tokens": 500, "tools": [{"name": "python", "input_schema": SCHEMA}]}
    said = [{"role": "user", "content": "hi"}]
    content = post("/v1/messages", messages=said, **body)["content"]
    (use,) = content
    assert (use["name"], use["input"]) == ("python", ARGUMENTS)
    said += [{"role": "assistant", "content": content}]
    said += [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "2"}]}]
    assert post("/v1/messages", messages=said, **body)["content"][0]["text"] == "two"


def test_ollama(post):
    body = {
        "model": "test",
        "tools": [{"type": "function", "function": {"name": "python", "parameters": SCHEMA}}],
    }
    said = [{"role": "user", "content": "hi"}]
    message = post("/api/chat", messages=said, **body)["message"]
    assert message["tool_calls"][0]["function"]["name"] == "python"
    said += [message, {"role": "tool", "tool_name": "python", "content": "2"}]
    assert post("/api/chat", messages=said, **body)["message"]["content"] == "two"
