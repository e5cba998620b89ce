"""The demo through the ollama package: a tool conversation, a form, a conversation by its token ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

COLD = {"temperature": 0}
FORM = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def get_weather(city: str) -> str:
    """Get the current weather for a city.

    Args:
        city: The city name
    """
    return json.dumps({"city": city, "temperature": 18, "condition": "rain"})


@pytest.fixture
def client(demo) -> Iterator[ollama.Client]:
    with ollama.Client(demo.url) as client:
        yield client


def ask(client: ollama.Client, streamed: bool, messages: list[Any]) -> ollama.Message:
    """The answer's message; a streamed one is put together as the package's own examples do."""
    made = client.chat("demo", messages, tools=[get_weather], think=True, stream=streamed, options=COLD)
    if not streamed:
        return made.message
    whole = ollama.Message(role="assistant", content="", thinking="", tool_calls=[])
    for part in made:
        whole.content += part.message.content or ""
        whole.thinking += part.message.thinking or ""
        whole.tool_calls += part.message.tool_calls or []
    return whole


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_conversation(client, streamed):
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    called = ask(client, streamed, messages)
    assert called.thinking
    (call,) = called.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"})
    result = {
        "role": "tool",
        "tool_name": call.function.name,
        "content": get_weather(**call.function.arguments),
    }
    answer = ask(client, streamed, [*messages, called, result])
    assert "18" in answer.content
    assert not answer.tool_calls


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_of_a_form(client, streamed):
    question = [{"role": "user", "content": "Mia is 31 years old. Give her name and age as JSON."}]
    made = client.chat("demo", question, format=FORM, stream=streamed, options=COLD)
    text = "".join(part.message.content for part in made) if streamed else made.message.content
    answer = json.loads(text)
    assert answer.keys() == {"name", "age"}
    assert isinstance(answer["age"], int)


def test_a_conversation_by_its_token_ids(client):
    first = client.generate("demo", "What is 12 + 30?", options=COLD)
    assert "42" in first.response
    assert "84" in client.generate("demo", "Now double it.", context=first.context, options=COLD).response


def test_what_is_told_of_the_model(client):
    (listed,) = client.list().models
    shown = client.show(listed.model)
    assert listed.size > 10 << 20
    assert listed.details.quantization_level == "MXFP4"
    assert shown.modelinfo["gptoss.context_length"] >= 4096
    assert shown.modelinfo["general.parameter_count"] > 1_000_000


def test_a_form_that_cannot_be_read_is_named(client):
    form = {"type": "object", "properties": {"name": {"type": "string", "pattern": "a("}}}
    with pytest.raises(ollama.ResponseError, match="pattern") as refused:
        client.chat("demo", [{"role": "user", "content": "Hello"}], format=form)
    assert refused.value.status_code == 400
