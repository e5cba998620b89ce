"""Thinking with a budget and thinking that is ended, with the demo over a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest

import mosso
from mosso.harmony.tokenizer import Tokenizer

USER: list[Any] = [{"role": "user", "content": "What is 4817 + 9256? Think well."}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def ask(demo: Any, **fields: Any) -> Any:
    fields = {"model": "demo", "messages": USER, "max_tokens": 600, "temperature": 0} | fields
    return demo.client.chat.completions.create(**fields)


def reasoning_tokens(answer: Any) -> int:
    return answer.usage.completion_tokens_details.reasoning_tokens


@pytest.mark.parametrize("budget", [1, 6])
def test_a_budget_ends_the_thinking(demo, budget) -> None:
    free = ask(demo, reasoning_effort="high")
    assert reasoning_tokens(free) > 10
    held = ask(demo, reasoning_effort="high", extra_body={"thinking_budget": budget})
    assert reasoning_tokens(held) == budget
    assert free.choices[0].message.reasoning.startswith(held.choices[0].message.reasoning)
    assert held.choices[0].message.content
    assert held.choices[0].finish_reason == "stop"


def test_effort_none_does_not_think(demo) -> None:
    answer = ask(demo, reasoning_effort="none", logprobs=True)
    assert reasoning_tokens(answer) == 0
    assert getattr(answer.choices[0].message, "reasoning", None) is None
    assert answer.choices[0].message.content
    shown = b"".join(bytes(entry.bytes) for entry in answer.choices[0].logprobs.content)
    assert shown.decode() == answer.choices[0].message.content


def test_a_schema_a_tool_and_a_budget_together(demo) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["yes", "no"]}}}
    answer = ask(demo, response_format=form, tools=[TOOL], extra_body={"thinking_token_budget": 4})
    assert reasoning_tokens(answer) <= 4
    message = answer.choices[0].message
    assert message.content in ('"yes"', '"no"') or message.tool_calls[0].function.name == "get_time"
    forced = ask(demo, tools=[TOOL], tool_choice="required", extra_body={"reasoning": {"max_tokens": 0}})
    assert reasoning_tokens(forced) == 0
    assert forced.choices[0].message.tool_calls[0].function.name == "get_time"


def test_a_running_stream_stops_thinking(gate, serving_demo, tmp_path) -> None:
    """The bias keeps the thought from ending by itself; until it is ended, steps are slow."""
    with serving_demo(tmp_path / "log", "--log-level", "warning") as demo:
        gate.slow_steps()
        stop_thinking(demo, gate)


def stop_thinking(demo: Any, gate: Any) -> None:
    control = Tokenizer.from_folder(Path(mosso.__file__).parent / "demo").control
    ends = {str(token): -100 for token in (control.end, control.return_, control.call)}
    stream = ask(demo, stream=True, logit_bias=ends, max_tokens=1500, temperature=1.0,
                 stream_options={"include_usage": True})  # fmt: skip
    thought = answer = ""
    ended = None
    for chunk in stream:
        if chunk.usage is not None:
            usage = chunk.usage
            continue
        delta = chunk.choices[0].delta
        thought += getattr(delta, "reasoning", None) or ""
        answer += delta.content or ""
        if len(thought) > 20 and ended is None:
            path = f"/chat/completions/{chunk.id}/end_thinking"
            ended = demo.client.post(path, cast_to=object)
            gate.open()
    assert ended == {"id": chunk.id, "object": "thinking.ended"}
    assert answer, "which cannot end by itself either"
    assert usage.completion_tokens == 1500
    assert usage.completion_tokens_details.reasoning_tokens < 1000


def test_responses(demo) -> None:
    fields: Any = {"model": "demo", "input": USER[0]["content"], "temperature": 0}
    reasoning: Any = {"effort": "high", "max_tokens": 5}
    made = demo.client.responses.create(reasoning=reasoning, **fields)
    assert made.usage.output_tokens_details.reasoning_tokens == 5
    assert made.output_text
    none = demo.client.responses.create(reasoning={"effort": "none"}, **fields)
    assert [item.type for item in none.output] == ["message"]
    assert none.reasoning.effort == "none"


def test_anthropic(demo) -> None:
    with anthropic.Anthropic(base_url=demo.url, api_key="none", max_retries=0) as client:
        fields: Any = {"model": "demo", "messages": USER, "max_tokens": 600, "extra_body": {"temperature": 0}}
        free = client.messages.create(thinking={"type": "enabled", "budget_tokens": 9000}, **fields)
        assert [block.type for block in free.content] == ["thinking", "text"]
        off = client.messages.create(thinking={"type": "disabled"}, **fields)
        assert [block.type for block in off.content] == ["text"]
        assert off.stop_reason == "end_turn"
