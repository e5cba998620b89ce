"""What a user of the openai package sees."""

import json

import openai
import pytest
from mosso_fakes import harmony, small_tokenizer

from mosso.core.errors import EngineError, OverloadedError, RequestError, UnavailableError
from mosso.core.requests import FinishReason, TokenEvent

TOKENIZER = small_tokenizer()
USER = [{"role": "user", "content": "hi"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            },
        },
    }
]


def test_chat(server):
    answer = server.client.chat.completions.create(model="gpt-oss-test", messages=USER)
    message = answer.choices[0].message
    assert (message.content, message.reasoning, message.reasoning_content) == ("the Hallö", "Hm.", "Hm.")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    assert answer.usage.prompt_tokens_details.cached_tokens == 16


def test_streamed_chat(server):
    stream = server.client.chat.completions.create(
        model="gpt-oss-test", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    made = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in made if c.choices) == "the Hallö"
    assert "".join(getattr(c.choices[0].delta, "reasoning", None) or "" for c in made if c.choices) == "Hm."
    assert made[-2].choices[0].finish_reason == "stop"
    assert made[-1].usage.total_tokens == made[-1].usage.prompt_tokens + made[-1].usage.completion_tokens


def test_the_sdks_own_accumulation(server):
    with server.client.chat.completions.stream(model="gpt-oss-test", messages=USER) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == "the Hallö"


def agent(request) -> tuple[int, ...]:
    """Thinks and calls `add` twice, then answers; it must see its thoughts again."""
    prompt = TOKENIZER.decode(request.prompt, control=True)
    call = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>"
    think = "<|channel|>analysis<|message|>step {}<|end|><|start|>assistant"
    results = prompt.count("<|start|>functions.add to=assistant")
    if results == 2 and "step 0" in prompt and "step 1" in prompt:
        return harmony(TOKENIZER, "<|channel|>final<|message|>42<|return|>")
    return harmony(TOKENIZER, think.format(results) + call + json.dumps({"a": results, "b": 1}) + "<|call|>")


@pytest.mark.parametrize("streamed", [False, True])
def test_two_tool_calls_and_an_answer(serve, streamed):
    client = serve(agent).client
    messages = list(USER)
    for _ in range(2):
        if streamed:
            with client.chat.completions.stream(model="test", messages=messages, tools=TOOLS) as stream:
                choice = stream.get_final_completion().choices[0]
        else:
            choice = client.chat.completions.create(model="test", messages=messages, tools=TOOLS).choices[0]
        assert choice.finish_reason == "tool_calls"
        call = choice.message.tool_calls[0]
        assert call.function.name == "add"
        result = sum(json.loads(call.function.arguments).values())
        bare = {
            "id": call.id,
            "type": "function",
            "function": call.function.model_dump(include={"name", "arguments"}),
        }
        messages += [
            {"role": "assistant", "tool_calls": [bare]},
            {"role": "tool", "tool_call_id": call.id, "content": str(result)},
        ]
    answer = client.chat.completions.create(model="test", messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "42"


def test_the_message_can_be_sent_back_as_it_came(serve):
    client = serve(agent).client
    message = client.chat.completions.create(model="test", messages=USER, tools=TOOLS).choices[0].message
    tool = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "1"}
    answer = client.chat.completions.create(model="test", messages=[*USER, message, tool], tools=TOOLS)
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"a": 1, "b": 1}'


def test_choices_and_logprobs(server):
    answer = server.client.chat.completions.create(
        model="test", messages=USER, n=2, seed=1, logprobs=True, top_logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    entries = answer.choices[0].logprobs.content
    assert bytes(byte for entry in entries for byte in entry.bytes).decode() == "the Hallö"
    assert entries[0].top_logprobs[0].token == "a"


def test_completions(server):
    answer = server.client.completions.create(model="test", prompt=["a", "b"], max_tokens=300)
    assert len(answer.choices) == 2
    stream = server.client.completions.create(model="test", prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_models(server):
    assert [model.id for model in server.client.models.list()] == ["gpt-oss-test", "test"]
    assert server.client.models.retrieve("test").max_model_len == 4096
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.models.retrieve("org/other")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 9}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
         "messages[0].content[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "banana"}}}]},
         "tools[0].function.parameters"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"min_tokens": 2}}, "min_tokens"),
        ({"extra_body": {"best_beer": 1}}, "best_beer"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
    ],
)  # fmt: skip
def test_mistakes_name_the_parameter(server, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.chat.completions.create(**({"model": "test", "messages": USER} | fields))
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_an_unknown_model(server):
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.chat.completions.create(model="gpt-4", messages=USER)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OverloadedError("full", retry_after=2.5), openai.RateLimitError),
        (EngineError("burnt"), openai.InternalServerError),
        (UnavailableError("gone"), openai.InternalServerError),
        (RequestError("never fits", param="messages"), openai.BadRequestError),
        (ZeroDivisionError("secret"), openai.InternalServerError),
    ],
)
def test_errors_before_the_first_token_have_their_status(serve, caplog, error, kind, stream):
    server = serve()
    server.source.start_error = error
    with pytest.raises(kind) as caught:
        server.client.chat.completions.create(model="test", messages=USER, stream=stream)
    if kind is openai.RateLimitError:
        assert caught.value.response.headers["retry-after"] == "3"
    if isinstance(error, UnavailableError):
        assert caught.value.status_code == 503
        assert "retry-after" in caught.value.response.headers
    assert "secret" not in caught.value.response.text
    assert server.app.state.lifecycle.active == 0


@pytest.mark.parametrize("error", ["it burns", None])
def test_an_error_midway_is_an_event(serve, error):
    def script(request):
        head = harmony(TOKENIZER, "<|channel|>final<|message|>He")
        yield TokenEvent(request.id, head)
        yield TokenEvent(request.id, (), finish=FinishReason.ERROR, error=error)

    server = serve(script)
    stream = server.client.chat.completions.create(model="test", messages=USER, stream=True)
    first = [next(stream).choices[0].delta.content for _ in range(2)]
    assert first == ["", "He"]
    with pytest.raises(openai.APIError, match=error or "engine failed"):
        next(stream)


def test_a_form_that_cannot_go_on_is_the_client_s_fault(serve):
    """So that no client asks again; a schema may meet a limit only after some tokens."""

    def script(request):
        yield TokenEvent(request.id, harmony(TOKENIZER, "<|channel|>final<|message|>He"))
        yield TokenEvent(request.id, (), finish=FinishReason.ERROR, error="too complex", refused=True)

    server = serve(script)
    with pytest.raises(openai.BadRequestError, match="too complex"):
        server.client.chat.completions.create(model="test", messages=USER)
    with pytest.raises(openai.BadRequestError, match="too complex"):
        server.client.responses.create(model="test", input="hi")
    events = list(server.client.responses.create(model="test", input="hi", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "invalid_prompt"
    with pytest.raises(openai.APIError, match="too complex"):
        list(server.client.chat.completions.create(model="test", messages=USER, stream=True))


def test_an_unforeseen_error_midway_tells_no_secret(serve, caplog):
    def script(request):
        yield TokenEvent(request.id, harmony(TOKENIZER, "<|channel|>final<|message|>He"))
        yield TokenEvent(request.id, (0.5,))

    server = serve(script)
    response = server.post("/v1/chat/completions", {"messages": USER, "stream": True})
    assert '"error":{"message":"The server failed while' in response.text
    assert "[DONE]" not in response.text
    assert "unexpected error" in caplog.text
