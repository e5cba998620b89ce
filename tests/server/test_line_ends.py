"""Characters that end a line in Unicode, but neither in SSE nor in JSON: no stream may be torn at them."""

import json

import ollama
import pytest

ENDS = "a\u2028b\u2029c\x85d"
SCRIPT = f"<|channel|>final<|message|>{ENDS}<|return|>"
ASKED = {"messages": [{"role": "user", "content": "Hi."}], "stream": True}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", ASKED),
        ("/v1/completions", {"prompt": "Hi.", "stream": True}),
        ("/v1/responses", {"input": "Hi.", "stream": True, "store": False}),
        ("/v1/messages", {"model": "test", "max_tokens": 50, **ASKED}),
        ("/api/chat", {"model": "test", "messages": ASKED["messages"]}),
    ],
)
def test_every_line_is_whole(serve, path, body):
    server = serve(SCRIPT)
    with server.http.stream("POST", path, json=body) as answer:
        lines = [line for line in answer.iter_lines() if line and not line.startswith("event:")]
    data = [line.removeprefix("data: ") for line in lines]
    assert len([json.loads(line) for line in data if line != "[DONE]"]) > 2


def test_the_ollama_package_reads_them(serve):
    with ollama.Client(serve(SCRIPT).url) as client:
        parts = client.chat("test", [{"role": "user", "content": "Hi."}], stream=True)
        assert "".join(part.message.content for part in parts) == ENDS
