"""Service tiers: where a request stands in the queue, and what its answer says about it."""

from __future__ import annotations

import json

import pytest

from mosso.api.caller import Caller
from mosso.api.completion_schema import CompletionRequest
from mosso.api.responses_schema import ResponsesRequest
from mosso.api.tiers import FLEX, rank_of, served_tier
from mosso.core.errors import RequestError
from mosso.core.requests import BACKGROUND

NOBODY, KEY, BEST = Caller(), Caller("ann", priority=2), Caller("boss", priority=-3)
ANSWER = "<|channel|>final<|message|>Yes.<|return|>"


@pytest.mark.parametrize("caller", [NOBODY, KEY, BEST])
def test_a_tier_never_stands_before_its_key(caller):
    for tier in (None, "auto", "default", "priority"):
        assert rank_of(caller, 0, tier) == caller.priority
    assert rank_of(caller, 4, "flex") == caller.priority + 4 + FLEX < BACKGROUND


def test_flex_hides_no_priority_that_a_key_may_not_have():
    with pytest.raises(RequestError):
        rank_of(KEY, -1, "flex")


@pytest.mark.parametrize(
    ("tier", "caller", "served"),
    [
        (None, NOBODY, "default"),
        ("auto", BEST, "default"),
        ("default", NOBODY, "default"),
        ("flex", BEST, "flex"),
        ("priority", NOBODY, "default"),
        ("priority", KEY, "default"),
        ("priority", BEST, "priority"),
    ],
)
async def test_an_answer_says_how_it_was_served(make, chat, tier, caller, served):
    services, source = make(ANSWER)
    job = services.chat.prepare(chat(service_tier=tier), caller)
    assert json.loads(await services.chat.complete(job, lambda usage: None))["service_tier"] == served
    job = services.chat.prepare(chat(service_tier=tier, stream=True), caller)
    async for batch in services.chat.stream(job, lambda usage: None):
        assert {json.loads(chunk)["service_tier"] for chunk in batch} == {served}
    job = services.responses.prepare(ResponsesRequest(input="hi", service_tier=tier), [], caller)
    answer = json.loads(await services.responses.complete(job, lambda usage: None))
    assert answer["service_tier"] == served
    assert {request.priority for request in source.seen} == {rank_of(caller, 0, tier)}
    assert served_tier(tier, job.request.priority) == served


def test_text_completions_have_tiers_too(make):
    services, _ = make(ANSWER)
    job = services.completions.prepare(CompletionRequest(prompt="hi", service_tier="flex"), KEY)
    assert job.requests[0].priority == 2 + FLEX
