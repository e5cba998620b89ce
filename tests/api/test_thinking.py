"""How much a turn may think: what clients ask for in each dialect, and an answer told to stop thinking."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mosso.api.caller import Caller
from mosso.api.messages_prompt import chat_request
from mosso.api.messages_schema import MessagesRequest
from mosso.api.responses_schema import ResponsesRequest
from mosso.core.errors import NotFoundError, RequestError, UnsupportedError
from mosso.core.requests import Request

THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
ANSWER = THINK + "<|channel|>final<|message|>Yes.<|return|>"
TOOLS = [
    {"type": "function", "function": {"name": "f"}},
    {"type": "function", "function": {"name": "python"}},
]


def request_of(make, chat, **fields) -> Request:
    services, _ = make(ANSWER)
    return services.chat.prepare(chat(**fields), Caller()).requests[0]


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({}, None),
        ({"thinking_budget": 100}, 100),
        ({"thinking_token_budget": 0}, 0),
        ({"reasoning": {"max_tokens": 7}}, 7),
        ({"reasoning": {"max_tokens": 7}, "thinking_budget": 7}, 7),
        ({"reasoning": {"effort": "high"}}, None),
        ({"reasoning": {"enabled": False}}, 0),
        ({"reasoning": {"enabled": True, "exclude": False}}, None),
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning_effort": "none", "thinking_budget": 0}, 0),
        ({"reasoning_effort": "low", "thinking_budget": 9}, 9),
    ],
)
def test_budgets(make, chat, fields, budget):
    request = request_of(make, chat, **fields)
    assert request.thinking_budget == budget
    assert request.constraint is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking_budget": 1, "thinking_token_budget": 2}, "thinking_token_budget"),
        ({"reasoning_effort": "none", "thinking_budget": 1}, "thinking_budget"),
        ({"reasoning": {"enabled": False, "max_tokens": 3}}, "reasoning.max_tokens"),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning.effort"),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
            "chat_template_kwargs.reasoning_effort",
        ),
    ],
)
def test_fields_that_contradict_each_other(make, chat, fields, param):
    with pytest.raises(RequestError) as caught:
        request_of(make, chat, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize("fields", [{"reasoning_effort": "xhigh"}, {"reasoning": {"effort": "xhigh"}}])
def test_an_effort_that_gpt_oss_has_not(make, chat, fields):
    with pytest.raises(UnsupportedError, match="xhigh") as caught:
        request_of(make, chat, **fields)
    assert caught.value.param == "reasoning_effort"


def test_whom_the_turn_may_call(make, chat):
    assert request_of(make, chat).recipients == ()
    assert request_of(make, chat, tools=TOOLS).recipients == ("functions.f", "functions.user_python")
    assert request_of(make, chat, tools=TOOLS, tool_choice="none").recipients == ()
    strict = [{"type": "function", "function": {"name": "f", "strict": True}}]
    formed = request_of(make, chat, tools=strict, thinking_budget=5)
    assert (formed.constraint is not None, formed.thinking_budget) == (True, 5)


@pytest.mark.parametrize(
    ("thinking", "effort", "budget"),
    [
        (None, None, None),
        ({"type": "enabled", "budget_tokens": 1024}, "low", 1024),
        ({"type": "enabled", "budget_tokens": 9000}, "high", 9000),
        ({"type": "adaptive"}, None, None),
        ({"type": "disabled"}, None, 0),
    ],
)
def test_anthropic(thinking, effort, budget):
    fields = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    body = chat_request(MessagesRequest.model_validate(fields | ({"thinking": thinking} if thinking else {})))
    assert (body.effort, body.budget) == (effort, budget)


@pytest.mark.parametrize(
    ("fields", "budget"),
    [({}, None), ({"max_tokens": 4}, 4), ({"effort": "none"}, 0), ({"effort": "low"}, None)],
)
def test_responses(fields, budget):
    assert ResponsesRequest.model_validate({"input": "hi", "reasoning": fields}).budget == budget


def test_a_response_that_may_not_think_has_no_budget():
    body = ResponsesRequest.model_validate({"input": "hi", "reasoning": {"effort": "none", "max_tokens": 4}})
    with pytest.raises(RequestError):
        assert body.budget


async def test_the_thinking_of_all_choices_of_a_running_answer_is_ended(make, chat):
    services, source = make(ANSWER)
    go = asyncio.Event()
    source.gate = lambda request: go.wait()
    job = services.chat.prepare(chat(n=2), Caller("mine"))
    making = asyncio.create_task(services.chat.complete(job, lambda usage: None))
    while len(source.open) < 2:
        await asyncio.sleep(0)
    for stranger in ("", "mine/x"):
        with pytest.raises(NotFoundError):
            await services.chat.running.end_thinking(stranger, job.id)
    ended = await services.chat.running.end_thinking("mine", job.id)
    assert (ended.id, ended.object) == (job.id, "thinking.ended")
    assert source.thought == [f"{job.id}-0", f"{job.id}-1"]
    go.set()
    await making
    with pytest.raises(NotFoundError) as caught:
        await services.chat.running.end_thinking("mine", job.id)
    assert caught.value.param == "id"


async def test_later_turns_of_an_answer_that_was_told_to_stop_do_not_think(make, chat):
    services, source = make(ANSWER)
    running = services.chat.running
    first = services.chat.prepare(chat(thinking_budget=9), Caller()).requests[0]
    second, third = replace(first, id="second"), replace(first, id="third")
    with running.holding("answer", [first]) as held:
        assert held.next(second) is second
        await running.end_thinking("", "answer")
        assert source.thought == ["second"], "the turn that runs"
        assert held.next(third) == replace(third, thinking_budget=0)
        await running.end_thinking("", "answer")
        assert source.thought == ["second", "third"]
