"""The demo through openai-agents: the SDK runs the function and goes on until there is an answer.

Over both of its models: chat completions and Responses.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI

QUIET = RunConfig(tracing_disabled=True)  # traces would go to a service on the network
COLD = ModelSettings(temperature=0)
MODELS = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}
WEATHER = {"Paris": {"temperature": 18, "condition": "rain"}, "Rome": {"temperature": 27, "condition": "sun"}}


@pytest.fixture(params=MODELS)
async def model(demo, request) -> AsyncIterator[Model]:
    async with AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield MODELS[request.param]("demo", client)


async def ran(agent: Agent[Any], question: str, streamed: bool) -> Any:
    if not streamed:
        return await Runner.run(agent, question, run_config=QUIET)
    result = Runner.run_streamed(agent, question, run_config=QUIET)
    kinds = [event.type async for event in result.stream_events()]
    assert "raw_response_event" in kinds
    return result


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_agent_calls_its_function_and_answers(model, streamed):
    asked: list[str] = []

    @function_tool  # strict, as the SDK has it unless told otherwise
    def get_weather(city: str) -> str:
        """Get the current weather for a city."""
        asked.append(city)
        return json.dumps(WEATHER[city])

    agent = Agent(name="weather", model=model, model_settings=COLD, tools=[get_weather])
    result = await ran(agent, "What is the weather in Paris and in Rome?", streamed)
    assert asked == ["Paris", "Rome"]
    assert all(word in result.final_output for word in ("18", "rain", "27", "sun"))
    assert any(item.type == "reasoning_item" for item in result.new_items)


async def test_a_second_question_goes_on_from_the_first(model):
    agent = Agent(name="sums", model=model, model_settings=COLD)
    first = await Runner.run(agent, "What is 120 + 5?", run_config=QUIET)
    asked = [*first.to_input_list(), {"role": "user", "content": "Now double it."}]
    second = await Runner.run(agent, asked, run_config=QUIET)
    assert "250" in second.final_output
