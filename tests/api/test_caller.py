"""Whose a request is: in its cache salt, its tenant, its priority, and in what is remembered of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosso.api.caller import Caller
from mosso.api.completion_schema import CompletionRequest
from mosso.api.messages_schema import MessagesRequest
from mosso.api.ollama_schema import OllamaChatRequest
from mosso.api.responses_schema import ResponsesRequest
from mosso.api.thoughts import Thought
from mosso.core.errors import RequestError
from mosso.harmony.conversation import Channel

ANN = Caller("ann", priority=2)
ASK = [{"role": "user", "content": "hi"}]
scopes = st.text("ab_-", max_size=3)
owns = st.text("ab/", max_size=4)


@given(scopes, owns, scopes, owns)
def test_no_two_callers_share_a_salt(scope, own, other_scope, other_own):
    same = (scope, own) == (other_scope, other_own)
    assert (Caller(scope).salt(own) == Caller(other_scope).salt(other_own)) is same


def test_a_client_may_only_stand_back():
    assert ANN.rank(0) == 2
    assert ANN.rank(3) == 5
    for given_place in (Caller("ann"), Caller(priority=1)):
        with pytest.raises(RequestError) as raised:
            given_place.rank(-1)
        assert raised.value.param == "priority"
    assert Caller().rank(-7) == -7, "where nobody needs a key, all are trusted"


def test_every_dialect_asks_the_engine_for_its_caller(make, chat):
    services, _ = make("")
    requests = [
        services.chat.prepare(chat(priority=1), ANN).requests[0],
        services.completions.prepare(CompletionRequest(prompt="hi", priority=1), ANN).requests[0],
        services.responses.prepare(ResponsesRequest(input="hi", priority=1), [], ANN).request,
        services.messages.prepare(
            MessagesRequest.model_validate({"model": "test", "messages": ASK, "max_tokens": 1}), ANN
        ).chat.requests[0],
        services.ollama.prepare_chat(
            OllamaChatRequest.model_validate({"model": "test", "messages": ASK}), ANN
        ).work.requests[0],
    ]
    assert [request.priority for request in requests] == [3, 3, 3, 2, 2]
    assert {(request.tenant, request.cache_salt) for request in requests} == {("ann", "ann")}


def test_a_clients_own_salt_adds_to_its_scope(make, chat):
    services, _ = make("")
    body = ResponsesRequest(input="hi", cache_salt="s")
    assert services.responses.prepare(body, [], ANN).request.cache_salt == "ann/s"
    assert services.chat.prepare(chat(cache_salt="s"), ANN).requests[0].cache_salt == "ann/s"


def test_the_thinking_before_a_call_is_its_callers_own(make, chat):

    services, _ = make("")
    services.chat.thoughts.put(ANN.salt(""), "call_1", (Thought(Channel.ANALYSIS, "secret"),))
    called = {"role": "assistant", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]}  # fmt: skip
    body = chat(messages=[*ASK, called, {"role": "tool", "tool_call_id": "call_1", "content": "x"}])
    own, other = (services.chat.prepare(body, caller).prompt_tokens for caller in (ANN, Caller("bob")))
    assert own > other
    assert services.chat.counted(body, ANN) == own, "counted as it would be sent"
