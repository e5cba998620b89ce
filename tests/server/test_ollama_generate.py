"""/api/generate, as a user of the ollama package sees it."""

import json

import ollama
import pytest
from mosso_fakes import harmony, small_tokenizer

TOKENIZER = small_tokenizer()


def shown(server, number=-1) -> str:
    """The prompt that the engine got."""
    return TOKENIZER.decode(server.source.seen[number].prompt, control=True)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_with_its_thinking(server, streamed):
    with ollama.Client(server.url) as client:
        made = client.generate("test", "hi", system="Be short.", stream=streamed)
        parts = list(made) if streamed else [made]
    assert "".join(part.response for part in parts) == "the Hallö"
    assert "".join(part.thinking or "" for part in parts) == "Hm."
    last = parts[-1]
    assert (last.done, last.done_reason) == (True, "stop")
    assert last.total_duration >= last.prompt_eval_duration + last.eval_duration > 0
    assert last.eval_count > 0
    assert [part.context for part in parts[:-1]] == [None] * (len(parts) - 1)
    prompt = shown(server)
    assert "# Instructions\n\nBe short.<|end|>" in prompt
    assert prompt.endswith("<|start|>user<|message|>hi<|end|><|start|>assistant")


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking_can_be_hidden(server, streamed):
    with ollama.Client(server.url) as client:
        made = client.generate("test", "hi", think=False, stream=streamed)
        parts = list(made) if streamed else [made]
    assert [part.thinking for part in parts] == [None] * len(parts)


def test_a_context_goes_on(serve):
    server = serve()
    with ollama.Client(server.url) as client:
        first = client.generate("test", "one")
        second = client.generate("test", "two", context=first.context)
    prompt = shown(server)
    told = "<|start|>assistant<|channel|>final<|message|>the Hallö<|end|>"
    assert TOKENIZER.decode(first.context, control=True) == (
        shown(server, 0).removesuffix("<|start|>assistant") + told
    )
    assert prompt == (
        TOKENIZER.decode(first.context, control=True) + "<|start|>user<|message|>two<|end|><|start|>assistant"
    )
    assert prompt.count("<|start|>system") == 1
    assert second.context[: len(first.context)] == first.context


def test_a_context_that_is_none_is_named(server):
    with ollama.Client(server.url) as client, pytest.raises(ollama.ResponseError, match=r"context\[1\]"):
        client.generate("test", "two", context=[1, 100_000])


@pytest.mark.parametrize("streamed", [False, True])
def test_raw_is_the_prompt_as_it_is(serve, streamed):
    server = serve(lambda request: harmony(TOKENIZER, " world<|return|>"))
    with ollama.Client(server.url) as client:
        made = client.generate("test", "hello", raw=True, stream=streamed, options={"stop": ["!"]})
        parts = list(made) if streamed else [made]
    assert "".join(part.response for part in parts) == " world"
    assert parts[-1].done_reason == "stop"
    assert parts[-1].context is None
    assert shown(server) == "hello"


def test_control_tokens_in_a_raw_prompt_are_text(serve):
    server = serve()
    with ollama.Client(server.url) as client:
        client.generate("test", "<|start|>", raw=True)
    assert server.source.seen[0].prompt == tuple(TOKENIZER.encode("<|start|>"))


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_log_probabilities(server, streamed, raw):
    with ollama.Client(server.url) as client:
        made = client.generate("test", "hi", logprobs=True, top_logprobs=2, stream=streamed, raw=raw)
        entries = [entry for part in (made if streamed else [made]) for entry in part.logprobs or []]
    assert len(entries) > 5
    assert all(entry.logprob == -0.5 and len(entry.top_logprobs) == 2 for entry in entries)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"suffix": "}"}, "suffix is not supported"),
        ({"template": "{{ .Prompt }}"}, "template is not supported"),
        ({"images": ["aGk="]}, "images is not supported"),
        ({"raw": True, "system": "x"}, "system cannot go together with raw"),
        ({"raw": True, "context": [1]}, "context cannot go together with raw"),
        ({"raw": True, "format": "json"}, "format cannot go together with raw"),
        ({"truncate": True}, "truncate"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"speed": 9}}, "options.speed"),
    ],
)
def test_what_is_not_supported_is_named(server, fields, name):
    refused = server.post("/api/generate", {"model": "test", "prompt": "hi"} | fields)
    assert refused.status_code == 400
    assert name in refused.json()["error"]


def test_empty_fields_of_the_dialect_are_nothing(server):
    body = {"model": "test", "prompt": "hi", "suffix": "", "template": "", "system": "", "images": [],
            "format": "", "context": [], "raw": False, "options": {}, "stream": False}  # fmt: skip
    answer = server.post("/api/generate", body)
    assert answer.status_code == 200
    assert json.loads(answer.text)["response"] == "the Hallö"
