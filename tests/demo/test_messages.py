"""The demo through the anthropic package: a tool conversation with its thinking shown."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

TOOL = {
    "name": "get_weather",
    "description": "Get the current weather for a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city name"}},
        "required": ["city"],
    },
}


def ask(client: anthropic.Anthropic, streamed: bool, messages: list[Any]) -> anthropic.types.Message:
    fields: dict[str, Any] = {
        "model": "demo",
        "max_tokens": 2000,
        "extra_body": {"temperature": 0},
        "tools": [TOOL],
        "thinking": {"type": "enabled", "budget_tokens": 4096},
        "messages": messages,
    }
    if not streamed:
        return client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        return stream.get_final_message()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_conversation(demo, streamed):
    client = anthropic.Anthropic(base_url=demo.url, api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    with client:
        called = ask(client, streamed, messages)
        assert called.stop_reason == "tool_use"
        assert called.content[0].type == "thinking"
        call = called.content[-1]
        assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
        weather = json.dumps({"temperature": 18, "condition": "rain"})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": weather}
        messages += [
            {"role": "assistant", "content": called.content},
            {"role": "user", "content": [result]},
        ]
        answer = ask(client, streamed, messages)
    assert answer.stop_reason == "end_turn"
    assert "18" in answer.content[-1].text
