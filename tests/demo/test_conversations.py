"""The demo through the openai package: thinking, answers, tools, as an application uses them."""

from __future__ import annotations

import json
from typing import Any

import pytest

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the current weather for a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "The city name"}},
                "required": ["city"],
            },
        },
    }
]
QUESTION = "What is the weather in Paris and in Rome?"
WEATHER = {"Paris": {"temperature": 18, "condition": "rain"}, "Rome": {"temperature": 27, "condition": "sun"}}


def whole(client: Any, messages: list[Any]) -> dict[str, Any]:
    message = (
        client.chat.completions.create(model="demo", messages=messages, tools=TOOLS, seed=1)
        .choices[0]
        .message
    )
    return message.model_dump(exclude_none=True)


def streamed(client: Any, messages: list[Any]) -> dict[str, Any]:
    content, calls = "", {}
    for chunk in client.chat.completions.create(
        model="demo", messages=messages, tools=TOOLS, seed=1, stream=True
    ):
        delta = chunk.choices[0].delta
        content += delta.content or ""
        for piece in delta.tool_calls or []:
            call = calls.setdefault(piece.index, {"id": piece.id, "type": "function", "function": ["", ""]})
            call["function"][0] += piece.function.name or ""
            call["function"][1] += piece.function.arguments or ""
    for call in calls.values():
        call["function"] = dict(zip(("name", "arguments"), call["function"], strict=True))
    message: dict[str, Any] = {"role": "assistant", "content": content}
    return message | ({"tool_calls": list(calls.values())} if calls else {})


@pytest.mark.parametrize("ask", [whole, streamed])
def test_two_tool_calls_and_a_final_answer(demo, ask) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    called = []
    for _ in range(3):
        message = ask(demo.client, messages)
        messages.append(message)
        for call in message.get("tool_calls", []):
            assert call["function"]["name"] == "get_weather"
            city = json.loads(call["function"]["arguments"])["city"]
            called.append(city)
            result = json.dumps(WEATHER[city])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        if not message.get("tool_calls"):
            break
    assert called == ["Paris", "Rome"]
    answer = messages[-1]["content"]
    assert all(word in answer for word in ("18", "rain", "27", "sun"))


def test_thinking_is_apart_from_the_answer_and_counted(demo) -> None:
    response = demo.client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is 123 + 456?"}],
        reasoning_effort="high",
        seed=1,
    )
    message = response.choices[0].message
    assert "579" in message.content
    assert message.reasoning == message.reasoning_content
    assert "check" in message.reasoning
    assert "check" not in message.content
    details = response.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < response.usage.completion_tokens
    assert response.choices[0].finish_reason == "stop"


def test_effort_changes_the_length_of_the_thinking(demo) -> None:
    lengths = []
    for effort in ("low", "medium", "high"):
        response = demo.client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "What is 47 * 86?"}],
            reasoning_effort=effort,
            seed=1,
        )
        assert "4042" in response.choices[0].message.content
        lengths.append(response.usage.completion_tokens_details.reasoning_tokens)
    assert lengths == sorted(set(lengths))


def test_a_follow_up_refers_to_the_answer_before(demo) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is 120 + 5?"}]
    first = demo.client.chat.completions.create(model="demo", messages=messages, seed=1).choices[0].message
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "Now double it."},
    ]
    second = demo.client.chat.completions.create(model="demo", messages=messages, seed=1).choices[0].message
    assert "250" in second.content


def test_a_seed_repeats_the_answer_whatever_runs_beside_it(demo) -> None:
    def ask() -> str:
        response = demo.client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Sort 42, 7, 19 and 3."}],
            seed=7,
            temperature=1.5,
        )
        message = response.choices[0].message
        return f"{message.reasoning}|{message.content}"

    alone = ask()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda _: ask(), range(6)))
    assert set(together) == {alone}


def test_what_it_cannot_do_it_says(demo) -> None:
    response = demo.client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Write a poem about spring."}], seed=1
    )
    assert "cannot" in response.choices[0].message.content
