"""What a user of the ollama package sees."""

import json

import ollama
import pytest
from mosso_fakes import harmony, small_tokenizer

from mosso.api.ollama_schema import OllamaChatAnswer, OllamaGenerateAnswer
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


OPTIONS = {"top_k": 5, "top_p": 0.5, "min_p": 0.1, "temperature": 0.7, "seed": 7, "repeat_penalty": 1.5,
           "presence_penalty": 0.2, "frequency_penalty": 0.3, "num_predict": 9}  # fmt: skip
LOADING = {"num_ctx": 8192, "num_gpu": 1, "use_mmap": True, "num_keep": 4, "repeat_last_n": 64, "tfs_z": 1,
           "mirostat": 0, "typical_p": 1.0, "penalize_newline": True, "num_thread": 8}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "asked", "kind"),
    [
        ("/api/chat", {"messages": USER, "tools": TOOLS, "logprobs": True}, OllamaChatAnswer),
        ("/api/generate", {"prompt": "hi", "logprobs": True}, OllamaGenerateAnswer),
    ],
)
def test_every_line_is_what_the_document_says(serve, path, asked, kind):
    server = serve(agent)
    streamed = server.post(path, {"model": "test"} | asked).text.splitlines()
    whole = server.post(path, {"model": "test", "stream": False} | asked).text
    for line in [*streamed, whole]:
        assert kind.model_validate_json(line, extra="forbid", strict=True)


def test_options_have_their_effect(serve):
    server = serve()
    with ollama.Client(server.url) as client:
        client.chat("test", USER, options=OPTIONS | LOADING)
        client.chat("test", USER, options={"seed": -1, "num_predict": -1})
    first, second = (request.sampling for request in server.source.seen)
    assert (first.top_k, first.top_p, first.min_p, first.temperature) == (5, 0.5, 0.1, 0.7)
    assert (first.seed, first.repetition_penalty, first.max_tokens) == (7, 1.5, 9)
    assert (first.presence_penalty, first.frequency_penalty) == (0.2, 0.3)
    assert second.seed is None
    assert second.max_tokens > 1000


def test_a_stop_string_and_a_length(serve):
    server = serve()
    with ollama.Client(server.url) as client:
        stopped = client.chat("test", USER, options={"stop": ["Hal"]})
        assert (stopped.message.content, stopped.done_reason) == ("the ", "stop")
        assert client.chat("test", USER, options={"num_predict": 3}).done_reason == "length"


def test_effort_and_format(serve):
    server = serve()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with ollama.Client(server.url) as client:
        client.chat("test", USER, think="high", format=schema)
        client.chat("test", USER, format="json")
    prompt = TOKENIZER.decode(server.source.seen[0].prompt, control=True)
    assert "Reasoning: high" in prompt
    assert [request.constraint is not None for request in server.source.seen] == [True, True]


def test_log_probabilities(server):
    with ollama.Client(server.url) as client:
        answer = client.chat("test", USER, logprobs=True, top_logprobs=1)
    assert [entry.token for entry in answer.logprobs][:2] == ["the", " "]
    assert all(len(entry.top_logprobs) == 1 for entry in answer.logprobs)


@pytest.mark.parametrize(
    ("fields", "status", "name"),
    [
        ({"model": "llama"}, 404, "llama"),
        ({"options": {"top_k": "x"}}, 400, "options.top_k"),
        ({"messages": [{"role": "tool", "content": "1"}]}, 400, "messages[0]"),
        ({"best_beer": 1}, 400, "best_beer"),
        ({"format": {"type": "banana"}}, 400, "format is not a valid JSON schema"),
        ({"format": {"required": "city"}}, 400, "format is not a valid JSON schema"),
        ({"messages": [{"role": "user", "images": ["aGk="]}]}, 400, "messages[0].images"),
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
