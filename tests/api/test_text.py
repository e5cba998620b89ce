import pytest

from mosso.api.caller import Caller
from mosso.api.text import DetokenizeRequest, TokenizeRequest
from mosso.core.errors import NotFoundError, RequestError


def test_tokenize_a_prompt(make):
    services, _ = make("")
    got = services.text.tokenize(TokenizeRequest(prompt="the a", return_token_strs=True), Caller())
    assert got.tokens == [266, 32, 97]
    assert (got.count, got.max_model_len) == (3, 4096)
    assert got.token_strs == ["the", " ", "a"]
    assert services.text.tokenize(TokenizeRequest(prompt=""), Caller()).tokens == []


def test_tokenize_messages_as_a_chat_would_render_them(make, chat):
    services, _ = make("")
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": tools}
    got = services.text.tokenize(TokenizeRequest.model_validate(body), Caller())
    assert tuple(got.tokens) == services.chat.prepare(chat(tools=tools), Caller()).requests[0].prompt


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ({"prompt": "a", "tools": []}, "tools"),
    ],
)
def test_what_makes_no_sense(make, body, param):
    services, _ = make("")
    with pytest.raises(RequestError) as caught:
        services.text.tokenize(TokenizeRequest.model_validate(body), Caller())
    assert caught.value.param == param


def test_detokenize(make):
    services, _ = make("")
    assert services.text.detokenize(DetokenizeRequest(tokens=[261, 266, 32])).prompt == "<|start|>the "
    split = services.text.detokenize(DetokenizeRequest(tokens=[261, 266, 32], return_token_strs=True))
    assert split.token_strs == ["<|start|>", "the", " "]
    with pytest.raises(RequestError) as caught:
        services.text.detokenize(DetokenizeRequest(tokens=[1, 269]))
    assert caught.value.param == "tokens[1]"
    with pytest.raises(NotFoundError):
        services.text.detokenize(DetokenizeRequest(model="x", tokens=[]))
