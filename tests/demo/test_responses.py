"""The demo through the openai package's Responses: thinking, answers, tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a city.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city name"}},
        "required": ["city"],
    },
}
WEATHER = {"Paris": {"temperature": 18, "condition": "rain"}, "Rome": {"temperature": 27, "condition": "sun"}}


def answered(client: Any, streamed: bool, **fields: Any) -> Any:
    if not streamed:
        return client.responses.create(model="demo", tools=[TOOL], **fields)
    with client.responses.stream(model="demo", tools=[TOOL], **fields) as stream:
        return stream.get_final_response()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_a_tool_conversation(demo, streamed: bool, stored: bool) -> None:
    given: list[Any] = [{"role": "user", "content": "What is the weather in Paris and in Rome?"}]
    sent, previous = given, {}
    for _ in range(6):
        answer = answered(demo.client, streamed, input=sent, store=stored, temperature=0, **previous)
        calls = [item for item in answer.output if item.type == "function_call"]
        if not calls:
            break
        results = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": json.dumps(WEATHER[json.loads(call.arguments)["city"]]),
            }
            for call in calls
        ]
        given = [*given, *(item.model_dump(exclude_none=True) for item in answer.output), *results]
        sent, previous = (results, {"previous_response_id": answer.id}) if stored else (given, {})
    assert "18" in answer.output_text
    assert "27" in answer.output_text
    assert answer.usage.input_tokens_details.cached_tokens > 0
