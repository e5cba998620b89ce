"""What a user of the anthropic package sees."""

import json

import anthropic
import pytest
from mosso_fakes import harmony, small_tokenizer

from mosso.core.errors import EngineError, OverloadedError, UnavailableError
from mosso.core.requests import FinishReason, TokenEvent

TOKENIZER = small_tokenizer()
ASK = {"model": "test", "max_tokens": 200, "messages": [{"role": "user", "content": "hi"}]}
SHOWN = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
TOOLS = [{"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}]


def client_of(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def agent(request) -> tuple[int, ...]:
    """Thinks, speaks and calls `add`; with the result, and its thought in sight again, it answers."""
    prompt = TOKENIZER.decode(request.prompt, control=True)
    if "<|start|>functions.add to=assistant" in prompt and "I add." in prompt:
        return harmony(TOKENIZER, "<|channel|>final<|message|>42<|return|>")
    return harmony(
        TOKENIZER,
        "<|channel|>analysis<|message|>I add.<|end|><|start|>assistant<|channel|>commentary<|message|>Wait."
        '<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}'
        "<|call|>",
    )


def ask(client, streamed, **fields):
    if not streamed:
        return client.messages.create(**(ASK | fields))
    with client.messages.stream(**(ASK | fields)) as stream:
        return stream.get_final_message()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("shown", [False, True])
def test_a_tool_conversation(serve, streamed, shown):
    fields = {"tools": TOOLS, "system": [{"type": "text", "text": "Be brief."}]} | (SHOWN if shown else {})
    with client_of(serve(agent)) as client:
        message = ask(client, streamed, **fields)
        assert [block.type for block in message.content] == ["thinking"] * shown + ["text", "tool_use"]
        assert message.stop_reason == "tool_use"
        call = message.content[-1]
        assert (call.name, call.input, message.content[-2].text) == ("add", {"a": 1}, "Wait.")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "42"}
        messages = [
            *ASK["messages"],
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [result]},
        ]
        answer = ask(client, streamed, **(fields | {"messages": messages}))
    assert [block.text for block in answer.content] == ["42"]
    assert answer.stop_reason == "end_turn"


def test_the_events_of_a_stream(serve):
    server = serve(agent)
    server.source.batch = 1000
    response = server.post("/v1/messages", ASK | SHOWN | {"tools": TOOLS, "stream": True})
    events = [part.split("\n") for part in response.text.strip().split("\n\n")]
    told = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [name.removeprefix("event: ") for name, _ in events] == [event["type"] for event in told]
    start = told[0]["message"]
    assert start["id"].startswith("msg_")
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 0)
    block = {"type": "tool_use", "id": told[8]["content_block"]["id"], "name": "add", "input": {}}
    assert told[1:-2] == [
        {"type": "content_block_start", "index": 0,
         "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 0,
         "delta": {"type": "thinking_delta", "thinking": "I add."}},
        {"type": "content_block_delta", "index": 0,
         "delta": {"type": "signature_delta", "signature": "mosso"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Wait."}},
        {"type": "content_block_stop", "index": 1},
        {"type": "content_block_start", "index": 2, "content_block": block},
        {"type": "content_block_delta", "index": 2,
         "delta": {"type": "input_json_delta", "partial_json": '{"a": 1}'}},
        {"type": "content_block_stop", "index": 2},
    ]  # fmt: skip
    assert told[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert told[-2]["usage"]["output_tokens"] > 0
    assert told[-1] == {"type": "message_stop"}


@pytest.mark.parametrize("streamed", [False, True])
def test_stop_sequences_and_length(server, streamed):
    with client_of(server) as client:
        stopped = ask(client, streamed, stop_sequences=["Ha", "all"])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Ha")
        assert stopped.content[0].text == "the "
        assert ask(client, streamed, max_tokens=2).stop_reason == "max_tokens"


def test_usage_adds_up_to_the_counted_tokens(server):
    with client_of(server) as client:
        usage = client.messages.create(**ASK).usage
        counted = client.messages.count_tokens(model="test", messages=ASK["messages"])
    assert usage.cache_read_input_tokens == 16
    assert usage.input_tokens + usage.cache_read_input_tokens == counted.input_tokens


def test_arguments_that_are_no_object_are_not_lost(serve):
    text = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{oops<|call|>"
    with client_of(serve(text)) as client:
        assert client.messages.create(**ASK, tools=TOOLS).content[0].input == {"arguments": "{oops"}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"temperature": 2}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]},
         "messages[0].content[0].tool_use_id"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
         "messages[1]"),
        ({"tools": [{"name": "f", "input_schema": {"type": "banana"}}]}, "tools[0].input_schema"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "tool"}, "tools": TOOLS}, "tool_choice.name"),
        ({"tools": [TOOLS[0] | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "edits[0].type"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"best_beer": 1}, "best_beer"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "banana"}}}},
         "output_config.format.schema is not a valid"),
    ],
)  # fmt: skip
def test_mistakes_have_the_dialects_shape_and_name_the_field(server, fields, name):
    response = server.post("/v1/messages", ASK | fields)
    assert response.status_code == 400
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert name in response.json()["error"]["message"]


def test_an_unknown_model_and_an_unknown_path(server):
    with client_of(server) as client, pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(**(ASK | {"model": "claude"}))
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert "gpt-oss-test" in caught.value.message
    assert server.http.get("/v1/messages/batches").json()["error"]["type"] == "not_found_error"
    assert server.post("/v1/messages/count_tokens", {**ASK, "model": "claude"}).status_code == 400


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (OverloadedError("full", retry_after=1), "rate_limit_error", 429),
        (UnavailableError("gone"), "overloaded_error", 503),
        (EngineError("burnt"), "api_error", 500),
    ],
)
def test_errors_before_the_first_token(serve, error, kind, status):
    server = serve()
    server.source.start_error = error
    response = server.post("/v1/messages", ASK | {"stream": True})
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)


def test_an_error_midway_is_an_event(serve):
    def script(request):
        yield TokenEvent(request.id, harmony(TOKENIZER, "<|channel|>final<|message|>He"))
        yield TokenEvent(request.id, (), finish=FinishReason.ERROR, error="it burns")

    with client_of(serve(script)) as client, pytest.raises(anthropic.APIStatusError, match="it burns"):
        list(client.messages.create(**ASK, stream=True))


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 9000}, "high"),
    ],
)
def test_a_budget_stands_for_an_effort(serve, thinking, effort):
    server = serve()
    server.post("/v1/messages", ASK | {"thinking": thinking})
    assert f"Reasoning: {effort}" in TOKENIZER.decode(server.source.seen[0].prompt, control=True)


def prompt_of(server) -> str:
    return TOKENIZER.decode(server.source.seen[-1].prompt, control=True)


def test_models_have_this_dialects_fields_too(server):
    with client_of(server) as client:
        page = client.models.list()
        first, second = page.data
        assert (first.id, first.type, second.display_name) == ("gpt-oss-test", "model", "test")
        assert first.created_at.year == 1970
        assert (page.has_more, page.first_id, page.last_id) == (False, "gpt-oss-test", "test")
        assert client.models.retrieve("test").id == "test"


def test_an_alias_is_what_the_client_calls_the_model(serve):
    server = serve(api={"aliases": ("claude-sonnet-4-5", "claude-haiku-4-5")})
    with client_of(server) as client:
        assert client.messages.create(**(ASK | {"model": "claude-haiku-4-5"})).model == "claude-haiku-4-5"


def test_beta_clients_are_answered(server):
    """What Claude Code sends beside the documented fields."""
    with client_of(server) as client:
        message = client.beta.messages.create(
            **ASK,
            betas=["context-management-2025-06-27"],
            context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            thinking={"type": "adaptive"},
            cache_control={"type": "ephemeral"},
            metadata={"user_id": "x"},
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        )
    assert [block.type for block in message.content] == ["thinking", "text"]


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking_may_be_left_out(server, streamed):
    with client_of(server) as client:
        message = ask(client, streamed, thinking={"type": "adaptive", "display": "omitted"})
    assert [block.type for block in message.content] == ["text"]


def test_a_ping_while_nothing_is_shown(server, monkeypatch):
    monkeypatch.setattr("mosso.api.messages.PING_SECONDS", -1.0)
    lines = server.post("/v1/messages", ASK | {"stream": True}).text.split("\n")
    assert "event: ping" in lines
    assert lines[lines.index("event: ping") + 1] == 'data: {"type":"ping"}'
    with client_of(server) as client, client.messages.stream(**ASK) as stream:
        assert stream.get_final_text() == "the Hallö"


@pytest.mark.parametrize(("effort", "means"), [("low", "low"), ("xhigh", "high"), ("max", "high")])
def test_efforts(serve, effort, means):
    server = serve()
    with client_of(server) as client:
        client.messages.create(**ASK, output_config={"effort": effort})
    assert f"Reasoning: {means}" in prompt_of(server)


def test_an_answer_of_a_form(serve):
    server = serve()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with client_of(server) as client:
        client.messages.create(**ASK, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert server.source.seen[0].constraint is not None
    assert '"integer"' in prompt_of(server)


@pytest.mark.parametrize(
    ("choice", "held", "answers"),
    [
        ({"type": "auto"}, True, True),
        ({"type": "none"}, False, True),
        ({"type": "any"}, True, False),
        ({"type": "tool", "name": "add"}, True, False),
    ],
)
def test_tool_choices(serve, choice, held, answers):
    server = serve()
    with client_of(server) as client:
        client.messages.create(**ASK, tools=TOOLS, tool_choice=choice)
    form = server.source.seen[0].constraint
    assert (form is not None) is held
    assert (form is None or form.answer is not None) is answers


@pytest.mark.parametrize("alone", [False, True])
def test_calls_side_by_side_can_be_switched_off(serve, alone):
    call = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}<|end|>"
    server = serve(f"{call}<|start|>assistant{call}<|start|>assistant<|channel|>final<|message|>x<|return|>")
    choice = {"type": "auto", "disable_parallel_tool_use": alone}
    with client_of(server) as client:
        message = client.messages.create(**ASK, tools=TOOLS, tool_choice=choice)
    assert [block.type for block in message.content].count("tool_use") == (1 if alone else 2)


def test_examples_of_a_tool_are_shown(serve):
    server = serve()
    tool = TOOLS[0] | {"description": "Adds.", "input_examples": [{"a": 7}], "eager_input_streaming": True}
    with client_of(server) as client:
        client.messages.create(**ASK, tools=[tool])
    assert 'Adds.\n// Example: {"a": 7}' in prompt_of(server)


def test_sealed_thinking_of_others_is_left_out(serve):
    server = serve()
    turn = [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Yes."}]
    messages = [*ASK["messages"], {"role": "assistant", "content": turn}, {"role": "user", "content": "So?"}]
    with client_of(server) as client:
        client.messages.create(**(ASK | {"messages": messages}))
    assert "<|channel|>final<|message|>Yes.<|end|>" in prompt_of(server)
