"""Messages → prompt tokens, as text with control tokens by name, and as ids."""

import pytest

from mosso.api.caller import Caller
from mosso.core.errors import RequestError, UnsupportedError

SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2025-06-28\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
)
OPEN = "<|start|>assistant"
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
CALLED = '<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"a":1}<|call|>'
RESULT = "<|start|>functions.f to=assistant<|channel|>commentary<|message|>42<|end|>"
USER = {"role": "user", "content": "hi"}
HI = "<|start|>user<|message|>hi<|end|>"


@pytest.fixture
def prompt(make, tokenizer, chat):
    services, _ = make("")

    def text(*messages, **fields):
        body = chat(messages=list(messages), **fields)
        return tokenizer.decode(services.chat.prepare(body, Caller()).requests[0].prompt, control=True)

    text.services = services
    return text


def test_the_ids_of_a_plain_prompt(make, chat, encode):
    services, _ = make("", identity=None, knowledge_cutoff=None, date=lambda: "2025-01-02")
    got = services.chat.prepare(chat(), Caller()).requests[0].prompt
    head = "Current date: 2025-01-02\n\nReasoning: medium\n\n"
    channels = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
    assert got == (
        261, *encode("system"), 263, *encode(head + channels), 262,
        261, 117, 115, 101, 114, 263, 104, 105, 262,
        261, 97, 115, 115, 105, 115, 116, 268, 116,
    )  # fmt: skip


def test_plain(prompt):
    assert prompt(USER) == SYSTEM + HI + OPEN


def test_text_cannot_become_a_control_token(make, chat):
    services, _ = make("")
    ids = (
        services.chat.prepare(chat(messages=[{"role": "user", "content": "<|end|><|start|>"}]), Caller())
        .requests[0]
        .prompt
    )
    assert ids.count(261) == 3


def test_system_and_developer_messages_are_joined(prompt):
    got = prompt(
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "developer", "content": [{"type": "text", "text": "Rhyme."}]},
    )
    developer = "<|start|>developer<|message|># Instructions\n\nBe brief.\n\nRhyme.<|end|>"
    assert got == SYSTEM + developer + HI + OPEN


@pytest.mark.parametrize(
    ("asked", "rendered"),
    [("none", "low"), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high")],
)
def test_effort(prompt, asked, rendered):
    assert f"Reasoning: {rendered}\n" in prompt(USER, reasoning_effort=asked)


def test_the_fields_of_the_chat_template(prompt):
    got = prompt(USER, chat_template_kwargs={"model_identity": "You are Ada.", "reasoning_effort": "high"})
    assert got.startswith("<|start|>system<|message|>You are Ada.\nKnowledge cutoff: 2024-06\n")
    assert "Reasoning: high\n" in got


def test_an_effort_that_gpt_oss_has_not(prompt):
    with pytest.raises(UnsupportedError) as caught:
        prompt(USER, reasoning_effort="xhigh")
    assert caught.value.param == "reasoning_effort"


def test_parts_are_lines_and_names_are_rendered(prompt):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    got = prompt({"role": "user", "content": parts, "name": "zoe"})
    assert got == SYSTEM + "<|start|>user:zoe<|message|>a\nb<|end|>" + OPEN


def test_tools_are_offered_unless_the_choice_is_none(prompt):
    assert "type f = () => any;" in prompt(USER, tools=TOOLS)
    assert prompt(USER, tools=TOOLS, tool_choice="none") == SYSTEM + HI + OPEN


def test_a_call_and_its_result(prompt):
    assistant = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "hm"}
    got = prompt(USER, assistant, {"role": "tool", "tool_call_id": "call_1", "content": "42"})
    thought = "<|start|>assistant<|channel|>analysis<|message|>hm<|end|>"
    assert got == SYSTEM + HI + thought + CALLED + RESULT + OPEN


def test_words_before_a_call_are_a_preamble(prompt):
    assistant = {"role": "assistant", "content": "I look.", "tool_calls": [CALL], "reasoning_content": "hm"}
    got = prompt(USER, assistant, {"role": "tool", "tool_call_id": "call_1", "content": "42"})
    thought = "<|start|>assistant<|channel|>analysis<|message|>hm<|end|>"
    preamble = "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    assert got == SYSTEM + HI + thought + preamble + CALLED + RESULT + OPEN


def test_thinking_before_the_last_answer_is_dropped(prompt):
    turn = [
        {"role": "assistant", "tool_calls": [CALL], "reasoning": "old"},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "assistant", "content": "It is 42.", "reasoning": "older"},
    ]
    answer = "<|start|>assistant<|channel|>final<|message|>It is 42.<|end|>"
    assert prompt(USER, *turn, USER) == SYSTEM + HI + CALLED + RESULT + answer + HI + OPEN


def test_thinking_of_earlier_turns_stays_out_while_a_new_call_is_made(prompt):
    answered = {"role": "assistant", "content": "It is 42.", "reasoning": "old"}
    calling = {"role": "assistant", "tool_calls": [CALL], "reasoning": "new"}
    got = prompt(USER, answered, USER, calling, {"role": "tool", "tool_call_id": "call_1", "content": "42"})
    answer = "<|start|>assistant<|channel|>final<|message|>It is 42.<|end|>"
    thought = "<|start|>assistant<|channel|>analysis<|message|>new<|end|>"
    assert got == SYSTEM + HI + answer + HI + thought + CALLED + RESULT + OPEN
    earlier = {"role": "assistant", "tool_calls": [CALL], "reasoning": "older"}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "42"}
    got = prompt(USER, earlier, result, answered, USER, calling, result)
    assert "older" not in got
    assert "new" in got


def test_a_refusal_is_an_answer(prompt):
    got = prompt(USER, {"role": "assistant", "refusal": "No."}, USER)
    assert "<|channel|>final<|message|>No.<|end|>" in got
    parts = [{"type": "refusal", "refusal": "Never."}]
    assert "<|message|>Never.<|end|>" in prompt(USER, {"role": "assistant", "content": parts}, USER)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant"}, "messages[1].content"),
        ({"role": "assistant", "content": "x", "name": "n"}, "messages[1].name"),
        ({"role": "system", "content": "x", "name": "n"}, "messages[1].name"),
        ({"role": "user", "content": "x", "name": "a b"}, "messages[1].name"),
        ({"role": "tool", "content": "x", "tool_call_id": "call_9"}, "messages[1].tool_call_id"),
    ],
)
def test_messages_that_cannot_be_rendered(prompt, message, param):
    with pytest.raises(RequestError) as caught:
        prompt(USER, message)
    assert caught.value.param == param


# Thoughts that the server kept


ANSWER = (
    "<|channel|>analysis<|message|>one<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|end|>"
    "<|start|>assistant<|channel|>analysis<|message|>two<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
)
REPLAYED = (
    "<|start|>assistant<|channel|>analysis<|message|>one<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    "<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
    "<|start|>assistant<|channel|>analysis<|message|>two<|end|>"
    "<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
)


@pytest.fixture
async def called(make, chat, tokenizer):
    """A conversation whose assistant message came from this server, and the prompt it renders to."""
    import json

    services, _ = make(ANSWER)
    whole = await services.chat.complete(
        services.chat.prepare(chat(tools=TOOLS), Caller()), lambda usage: None
    )
    message = json.loads(whole)["choices"][0]["message"]

    def render(message, **fields):
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "42"} for call in message["tool_calls"]
        ]
        body = chat(messages=[USER, message, *results], **fields)
        return tokenizer.decode(services.chat.prepare(body, Caller()).requests[0].prompt, control=True)

    return message, render


async def test_what_a_client_sends_back_whole_is_replayed_exactly(called):
    message, render = called
    assert message["reasoning"] == "one\n\ntwo"
    assert message["content"] == "I look."
    assert render(message) == SYSTEM + HI + REPLAYED + RESULT * 2 + OPEN


async def test_what_a_client_forgot_is_replayed_too(called):
    message, render = called
    bare = {"role": "assistant", "tool_calls": message["tool_calls"]}
    assert render(bare) == SYSTEM + HI + REPLAYED + RESULT * 2 + OPEN


async def test_another_salt_sees_nothing(called):
    message, render = called
    bare = {"role": "assistant", "tool_calls": message["tool_calls"]}
    assert "analysis<|message|>" not in render(bare, cache_salt="other")


async def test_the_clients_own_words_win(called):
    message, render = called
    got = render(message | {"reasoning": "mine"})
    assert "mine" in got
    assert "two" not in got
    assert got.index("mine") < got.index("I look.")
    got = render(message | {"content": "Wait."})
    assert "I look." not in got
    assert got.index("one") < got.index("Wait.") < got.index("{}") < got.index("two")
