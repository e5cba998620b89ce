"""What openai/gpt-oss's compatibility test looks at, in CI: agents with one function, of many kinds.

By chat and by Responses, whole and streamed: the shape of every answer is right, whatever so small a model
makes of it. The original runs as docs/facts.md says; these questions and functions are our own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import pytest
from agents import (
    Agent,
    FunctionTool,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
)
from openai import AsyncOpenAI
from openai.types.responses import ResponseReasoningItem

QUIET = RunConfig(tracing_disabled=True)
SETTINGS = ModelSettings(temperature=0, max_tokens=600)
MODELS = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}


def described(kind: str, about: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": about, **more}


TEXT = described("string", "What to work on")
PAIR = {"type": "array", "maxItems": 2, "items": {"type": "number"}}
FUNCTIONS: dict[str, tuple[dict[str, Any], list[str], str]] = {  # properties, required, result
    "service_status": ({}, [], '{"status": "up", "days": 4}'),
    "render_html": ({"source": TEXT}, ["source"], '{"html": "<h2>Notes</h2>"}'),
    "guess_language": ({"sample": TEXT}, ["sample"], '{"language": "fr", "certainty": 0.9}'),
    "draw_plot": (
        {
            "points": {"type": "array", "maxItems": 5, "items": PAIR},
            "style": described("string", "How to draw it", enum=["line", "bars", "dots"]),
            "heading": described("string", "Text above it", default="", maxLength=40),
        },
        ["points", "style"],
        '{"image": "iVBORw0KGgo="}',
    ),
    "find_rows": (
        {
            "table": described("string", "Where to look", maxLength=30),
            "fields": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 4},
            "most": described("integer", "How many rows", minimum=1, maximum=500, default=10),
        },
        ["table", "fields"],
        '{"rows": [], "count": 0}',
    ),
    "get_weather": ({"city": described("string", "The city name")}, ["city"], '{"sky": "clear"}'),
}  # fmt: skip
CASES = [
    ("service_status", "Is the service up and well?"),
    ("service_status", "A quick report on how it all runs, please."),
    ("render_html", "Make HTML of this:\n\n## Notes\n\nA *short* one."),
    ("render_html", "I wrote `**loud**`; how does it look as HTML?"),
    ("guess_language", "Which language is this? «Où est la gare?»"),
    ("guess_language", "What do they speak here: こんばんは、みなさん"),
    ("draw_plot", "Draw a line through (0,1), (1,3) and (2,7)."),
    ("draw_plot", "Bars for 12, 19 and 24, headed 'Visitors'."),
    ("find_rows", "The names and prices of the first 3 products, please."),
    ("find_rows", "Look up id and town of the clients in Lyon."),
    ("get_weather", "What is the weather in Oslo?"),
    ("get_weather", "Weather for Lima, please."),
]


def schema_of(name: str) -> dict[str, Any]:
    properties, required, _ = FUNCTIONS[name]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def tool_of(name: str, called: list[str]) -> FunctionTool:
    async def invoked(_: Any, arguments: str) -> str:
        called.append(arguments)
        return FUNCTIONS[name][2]

    about = f"{name.replace('_', ' ').capitalize()}."
    return FunctionTool(name, about, schema_of(name), invoked, strict_json_schema=False)


@pytest.fixture
async def client(demo) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


async def ran(agent: Agent[Any], question: str, streamed: bool) -> tuple[list[Any], set[str]]:
    """The items that the run made, and the kinds of raw events that a streamed one had."""
    kinds: set[str] = set()
    if not streamed:
        return (await Runner.run(agent, question, run_config=QUIET, max_turns=6)).new_items, kinds
    result = Runner.run_streamed(agent, question, run_config=QUIET, max_turns=6)
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            kinds.add(event.data.type)
    return result.new_items, kinds


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", MODELS)
@pytest.mark.parametrize(("name", "question"), CASES)
async def test_a_case(client, api: str, streamed: bool, name: str, question: str):
    called: list[str] = []
    agent = Agent(
        name=name,
        model=MODELS[api]("demo", client),
        model_settings=SETTINGS,
        tools=[tool_of(name, called)],
    )
    try:
        items, kinds = await ran(agent, question, streamed)
    except MaxTurnsExceeded:  # a small model may call again and again
        items, kinds = [], {"response.reasoning_text.delta", "response.reasoning_text.done"}
        assert called
    for arguments in called:
        jsonschema.validate(json.loads(arguments), schema_of(name))
    thoughts = [item.raw_item for item in items if item.type == "reasoning_item"]
    assert all(isinstance(thought, ResponseReasoningItem) for thought in thoughts)
    assert thoughts or not items
    if api == "responses" and items:
        parts = [part for thought in thoughts for part in thought.content or ()]
        assert parts
        assert all(part.type == "reasoning_text" and part.text for part in parts)
        if streamed:
            assert {"response.reasoning_text.delta", "response.reasoning_text.done"} <= kinds
