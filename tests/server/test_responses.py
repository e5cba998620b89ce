"""/v1/responses as a user of the openai package sees it."""

import json

import openai
import pytest
from mosso_fakes import harmony, small_tokenizer

TOKENIZER = small_tokenizer()
ADD = {
    "type": "function",
    "name": "add",
    "strict": False,
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}


def agent(request) -> tuple[int, ...]:
    """Thinks and calls `add` twice, then answers; it must see its thoughts again."""
    prompt = TOKENIZER.decode(request.prompt, control=True)
    call = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>"
    think = "<|channel|>analysis<|message|>step {}<|end|><|start|>assistant"
    results = prompt.count("<|start|>functions.add to=assistant")
    if results == 2 and "step 0" in prompt and "step 1" in prompt:
        return harmony(TOKENIZER, "<|channel|>final<|message|>42<|return|>")
    return harmony(TOKENIZER, think.format(results) + call + json.dumps({"a": results, "b": 1}) + "<|call|>")


def calls_of(response):
    return [item for item in response.output if item.type == "function_call"]


def result_of(call):
    total = sum(json.loads(call.arguments).values())
    return {"type": "function_call_output", "call_id": call.call_id, "output": str(total)}


def test_a_whole_answer_and_what_is_kept_of_it(server):
    client = server.client
    answer = client.responses.create(model="test", input="hi", metadata={"a": "b"}, instructions="Be kind.")
    assert (answer.status, answer.output_text) == ("completed", "the Hallö")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "Hm."
    assert answer.usage.output_tokens_details.reasoning_tokens == 3
    assert client.responses.retrieve(answer.id) == answer
    client.responses.delete(answer.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError, match=answer.id):
            gone(answer.id)


def test_a_stream_folded_by_the_sdk(server):
    with server.client.responses.stream(model="test", input="hi") as stream:
        events = list(stream)
        answer = stream.get_final_response()
    assert answer.output_text == "the Hallö"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert server.client.responses.retrieve(answer.id).output_text == "the Hallö"


def test_events_carry_their_names(server):
    text = server.post("/v1/responses", {"input": "hi", "stream": True}).text
    frames = [frame.split("\n") for frame in text.strip().split("\n\n")]
    assert all(name == f"event: {json.loads(data[6:])['type']}" for name, data in frames)
    assert frames[-1][0] == "event: response.completed"


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_calls_by_previous_response_id(serve, streamed):
    client = serve(agent).client
    answer, given = None, "hi"
    for _ in range(3):
        fields = {"model": "test", "input": given, "tools": [ADD]}
        fields |= {"previous_response_id": answer.id} if answer else {}
        if streamed:
            with client.responses.stream(**fields) as stream:
                answer = stream.get_final_response()
        else:
            answer = client.responses.create(**fields)
        given = [result_of(call) for call in calls_of(answer)]
    assert answer.output_text == "42"
    items = client.responses.input_items.list(answer.id, order="asc", limit=2)
    assert [item.type for item in items] == [
        "message",
        *["reasoning", "function_call", "function_call_output"] * 2,
    ]
    newest = client.responses.input_items.list(answer.id, limit=1)
    assert newest.data[0].type == "function_call_output"
    assert newest.has_more


@pytest.mark.parametrize("keep", [("reasoning", "function_call"), ("function_call",)])
def test_tool_calls_without_a_store(serve, keep):
    """The items go back as they came; what a client leaves out of the thinking the server remembers."""
    client = serve(agent).client
    given = [{"role": "user", "content": "hi"}]
    for _ in range(3):
        answer = client.responses.create(model="test", input=given, tools=[ADD], store=False)
        given += [item.model_dump() for item in answer.output if item.type in keep]
        given += [result_of(call) for call in calls_of(answer)]
    assert answer.output_text == "42"
    assert answer.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_sealed_thinking_comes_back(serve):
    client = serve(agent).client
    given = [{"role": "user", "content": "hi"}]
    for _ in range(3):
        answer = client.responses.create(
            model="test", input=given, tools=[ADD], store=False, include=["reasoning.encrypted_content"]
        )
        for item in answer.output:
            data = item.model_dump(exclude_none=True)
            given.append(data | {"content": []} if item.type == "reasoning" else data)
        given += [result_of(call) for call in calls_of(answer)]
    assert answer.output_text == "42"
    sealed = given[1]
    del given[-1]  # the answer: thinking before it is not read again
    assert "step" not in sealed["encrypted_content"]
    given[1] = sealed | {"encrypted_content": sealed["encrypted_content"][:-4] + "AAAA"}
    with pytest.raises(openai.BadRequestError, match="not sealed by this server"):
        client.responses.create(model="test", input=given, tools=[ADD])


def test_log_probabilities(server):
    answer = server.client.responses.create(
        model="test", input="hi", include=["message.output_text.logprobs"], top_logprobs=2
    )
    entries = answer.output[1].content[0].logprobs
    assert bytes(byte for entry in entries for byte in entry.bytes).decode() == "the Hallö"
    assert len(entries[0].top_logprobs) == 2


def test_an_answer_cut_short(server):
    answer = server.client.responses.create(model="test", input="hi", max_output_tokens=4)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert server.client.responses.retrieve(answer.id).status == "incomplete"


def test_truncation_drops_the_oldest_turns(serve):
    server = serve()
    server.source.max_context = 700
    turns = [{"role": "user", "content": f"{n} " + "x" * 300} for n in range(3)]
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        server.client.responses.create(model="test", input=turns)
    answer = server.client.responses.create(model="test", input=turns, truncation="auto")
    assert answer.truncation == "auto"
    prompt = TOKENIZER.decode(server.source.seen[-1].prompt)
    assert "2 xxx" in prompt
    assert "0 xxx" not in prompt


def test_tools_of_others_are_left_out(server):
    answer = server.client.responses.create(model="test", input="hi", tools=[ADD, {"type": "web_search"}])
    assert [tool.type for tool in answer.tools] == ["function"]


BAD = [
    ({}, "input"),
    ({"input": []}, "input"),
    ({"input": "hi", "colour": 1}, "colour"),
    ({"input": "hi", "model": "gpt-4"}, "model"),
    ({"input": "hi", "conversation": "c"}, "conversation"),
    ({"input": "hi", "previous_response_id": "resp_none"}, "previous_response_id"),
    ({"input": "hi", "include": ["the.moon"]}, "include[0]"),
    ({"input": "hi", "background": True, "store": False}, "background"),
    ({"input": "hi", "tool_choice": "required"}, "tool_choice"),
    ({"input": "hi", "tools": [{"type": "local_shell"}]}, "tools[0].type"),
    ({"input": "hi", "tools": [ADD, ADD]}, "tools[1].name"),
    ({"input": "hi", "tools": [ADD], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
    ({"input": "hi", "text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ({"input": "hi", "text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ({"input": "hi", "reasoning": {"effort": "xhigh"}}, "reasoning.effort"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": "a"}, {"role": "user"}]}, "input[1].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    (
        {"input": [{"role": "user", "content": [{"type": "output_text", "text": "a"}]}]},
        "input[0].content[0].type",
    ),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, "input"),
    ({"input": ["hi"]}, "input[0]"),
]


@pytest.mark.parametrize(("body", "param"), BAD)
def test_mistakes_are_named(server, body, param):
    answer = server.post("/v1/responses", body)
    assert answer.status_code == (404 if param in ("model", "previous_response_id") else 400)
    assert answer.json()["error"]["param"] == param


def test_a_choice_of_tools_that_is_not_taken_names_those_that_are(server):
    choice = {"type": "allowed_tools", "mode": "auto", "tools": []}
    error = server.post("/v1/responses", {"input": "hi", "tool_choice": choice}).json()["error"]
    assert error["param"] == "tool_choice.type"
    for kind in ("function", "custom", "mcp", "code_interpreter", "web_search"):
        assert f"'{kind}'" in error["message"]
    incomplete = server.post("/v1/responses", {"input": "hi", "tool_choice": {"type": "mcp"}})
    assert incomplete.json()["error"]["param"] == "tool_choice.server_label"


def test_wrong_pages_are_named(server):
    made = server.client.responses.create(model="test", input="hi")
    path = f"/v1/responses/{made.id}/input_items"
    answer = server.http.get(path, params={"limit": 0})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
    answer = server.http.get(path, params={"after": "msg_none"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "after")


def test_whatever_the_model_calls_can_be_followed(serve):
    name = "x" * 400
    server = serve(f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{{}}<|call|>")
    made = server.client.responses.create(model="test", input="hi", tools=[ADD])
    call = calls_of(made)[0]
    assert set(call.name) == {"x"}
    given = [result_of(call)]
    again = server.client.responses.create(
        model="test", input=given, previous_response_id=made.id, tools=[ADD]
    )
    assert calls_of(again)


def test_thinking_before_the_last_answer_is_not_shown_again(server):
    def thinking(text):
        return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}

    call = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}
    items = [
        {"role": "user", "content": "hi"},
        thinking("old thought"),
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "add"},
        thinking("new thought"),
        call,
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "3"}]},
    ]
    server.client.responses.create(model="test", input=items, tools=[ADD])
    prompt = TOKENIZER.decode(server.source.seen[-1].prompt)
    assert "new thought" in prompt
    assert "old thought" not in prompt


def test_a_full_disk_costs_no_answer(serve):
    server = serve()
    database = server.app.state.responses._store._connection
    database.execute("PRAGMA max_page_count = 1")  # SQLite's own disk-full error
    long = {"model": "test", "input": "x" * 2000}
    answer = server.client.responses.create(**long)
    assert answer.output_text == "the Hallö"
    for _ in range(10):
        answer = server.client.responses.create(**long)
    assert answer.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        server.client.responses.retrieve(answer.id)
    assert 'mosso:responses_not_stored_total{model_name="gpt-oss-test"} ' in server.http.get("/metrics").text
    database.execute("PRAGMA max_page_count = 1000000")
    answer = server.client.responses.create(**long)
    assert answer.to_dict()["store"] is True
    assert server.client.responses.retrieve(answer.id) == answer


@pytest.mark.parametrize("stream", [False, True])
def test_the_tokens_themselves_on_request(server, stream):
    body = {"input": "Hi", "return_token_ids": True, "stream": stream}
    got = server.post("/v1/responses", body)
    answer = json.loads(got.text.split("data: ")[-1])["response"] if stream else got.json()
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    said = f"{thought}<|channel|>final<|message|>the Hallö<|return|>"
    assert answer["token_ids"] == list(harmony(TOKENIZER, said))
    assert answer["prompt_token_ids"] == list(server.source.seen[-1].prompt)
    assert "token_ids" not in server.post("/v1/responses", {"input": "Hi"}).json()
