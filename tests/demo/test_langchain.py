"""The demo through langchain-openai: bound tools, results, the answer; by chat completions and Responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

WEATHER = {"Paris": {"temperature": 18, "condition": "rain"}, "Rome": {"temperature": 27, "condition": "sun"}}


@tool
def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return json.dumps(WEATHER[city])


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def model(demo, request) -> Iterator[ChatOpenAI]:
    with httpx.Client(timeout=120) as http:
        yield ChatOpenAI(
            model="demo",
            base_url=f"{demo.url}/v1",
            api_key="none",
            temperature=0,
            stream_usage=True,
            max_retries=0,
            use_responses_api=request.param,
            http_client=http,
        )


def asked(model: Any, messages: list[Any], streamed: bool) -> AIMessage:
    if not streamed:
        return model.invoke(messages)
    whole: AIMessageChunk | None = None
    for chunk in model.stream(messages):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    return whole


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_conversation(model, streamed):
    bound = model.bind_tools([get_weather])
    messages: list[Any] = [HumanMessage("What is the weather in Paris and in Rome?")]
    cities = []
    for _ in range(3):
        message = asked(bound, messages, streamed)
        messages.append(message)
        if not message.tool_calls:
            break
        assert not message.invalid_tool_calls
        cities += [call["args"]["city"] for call in message.tool_calls]
        messages += [get_weather.invoke(call) for call in message.tool_calls]
    assert cities == ["Paris", "Rome"]
    assert all(word in messages[-1].text for word in ("18", "rain", "27", "sun"))
    used = messages[-1].usage_metadata
    assert used["input_tokens"] + used["output_tokens"] == used["total_tokens"] > 0


def test_an_answer_of_a_form(model):
    class Person(BaseModel):
        name: str
        age: int

    person = model.with_structured_output(Person).invoke(
        "Mia is 31 years old. Give her name and age as JSON."
    )
    assert person == Person(name="Mia", age=31)
