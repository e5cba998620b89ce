"""What a user of the ollama package sees."""

import json

import ollama
import pytest
from mosso_fakes import harmony, small_tokenizer

from mosso.core.requests import FinishReason, TokenEvent

TOKENIZER = small_tokenizer()
USER = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]


def agent(request) -> tuple[int, ...]:
    prompt = TOKENIZER.decode(request.prompt, control=True)
    if "<|start|>functions.add to=assistant" in prompt and "I add." in prompt:
        return harmony(TOKENIZER, "<|channel|>final<|message|>42<|return|>")
    return harmony(
        TOKENIZER,
        "<|channel|>analysis<|message|>I add.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>',
    )


def ask(server, streamed, messages):
    with ollama.Client(server.url) as client:
        answer = client.chat("test", messages, tools=TOOLS, think=True, stream=streamed)
        if not streamed:
            return answer.message
        made = list(answer)
    assert [part.done for part in made] == [False] * (len(made) - 1) + [True]
    calls = [call for part in made for call in part.message.tool_calls or []]
    thinking = "".join(part.message.thinking or "" for part in made)
    content = "".join(part.message.content or "" for part in made)
    return ollama.Message(role="assistant", content=content, thinking=thinking, tool_calls=calls or None)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_conversation(serve, streamed):
    server = serve(agent)
    message = ask(server, streamed, USER)
    assert message.thinking == "I add."
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("add", {"a": 1})
    result = {"role": "tool", "tool_name": "add", "content": "42"}
    assert ask(server, streamed, [*USER, message, result]).content == "42"


def test_lines_are_the_default_and_thinking_can_be_hidden(serve):
    server = serve()
    body = {"model": "test:latest", "messages": USER, "think": False, "keep_alive": "5m"}
    response = server.post("/api/chat", body)
    assert response.headers["content-type"] == "application/x-ndjson"
    made = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(part["message"]["content"] for part in made) == "the Hallö"
    assert not any("thinking" in part["message"] for part in made)
    assert made[-1]["done_reason"] == "stop"
    assert made[-1]["eval_count"] > 0


def test_options_have_their_effect(serve):
    server = serve()
    options = {"num_predict": 3, "top_k": 5, "seed": 7, "repeat_penalty": 1.5}
    with ollama.Client(server.url) as client:
        assert client.chat("test", USER, options=options).done_reason == "length"
    sampling = server.source.seen[0].sampling
    assert (sampling.max_tokens, sampling.top_k, sampling.repetition_penalty) == (3, 5, 1.5)


def test_what_is_served(server):
    with ollama.Client(server.url) as client:
        assert [model.model for model in client.list().models] == ["gpt-oss-test", "test"]
        assert [model.model for model in client.ps().models] == ["gpt-oss-test"]


@pytest.mark.parametrize(
    ("fields", "status", "name"),
    [
        ({"model": "llama"}, 404, "llama"),
        ({"options": {"top_k": "x"}}, 400, "options.top_k"),
        ({"messages": [{"role": "tool", "content": "1"}]}, 400, "messages[0]"),
        ({"best_beer": 1}, 400, "best_beer"),
    ],
)
def test_mistakes_have_the_dialects_shape(server, fields, status, name):
    response = server.post("/api/chat", {"model": "test", "messages": USER} | fields)
    assert response.status_code == status
    assert name in response.json()["error"]


def test_an_error_midway_is_a_line(serve):
    def script(request):
        yield TokenEvent(request.id, harmony(TOKENIZER, "<|channel|>final<|message|>He"))
        yield TokenEvent(request.id, (), finish=FinishReason.ERROR, error="it burns")

    with ollama.Client(serve(script).url) as client, pytest.raises(ollama.ResponseError, match="it burns"):
        list(client.chat("test", USER, stream=True))
