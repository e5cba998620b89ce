"""Golden event sequences of the Responses API's state machine, and what a store that fails costs."""

import json
from itertools import count

import pytest
from mosso_fakes import harmony

from mosso.api.caller import Caller
from mosso.api.responses_schema import ResponsesRequest
from mosso.api.responses_stream import ResponseMachine, ResponseOptions
from mosso.core.errors import EngineError, NotFoundError
from mosso.core.requests import FinishReason, TokenEvent, TokenLogprob

THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}<|call|>"
FINAL = "<|channel|>final<|message|>Hallö<|return|>"


def play(tokenizer, text, finish=FinishReason.STOP, batch=1, **options):
    """The machine, fed `batch` tokens at a time, and all its events."""
    ids, calls = count(), []
    machine = ResponseMachine(
        tokenizer,
        ResponseOptions(**options),
        prompt=[0] * 7,
        on_call=lambda call_id, thoughts: calls.append((call_id, thoughts)),
        on_repair=lambda kind: None,
        new_id=lambda prefix: f"{prefix}_{next(ids)}",
    )
    tokens, events = harmony(tokenizer, text), []
    for start in range(0, len(tokens), batch):
        piece = tokens[start : start + batch]
        logprobs = tuple(TokenLogprob(token, -0.5) for token in piece)
        last = finish if start + batch >= len(tokens) else None
        events += machine.feed(TokenEvent("r", piece, logprobs=logprobs, finish=last))
        if machine.done:
            break
    return machine, events, calls


def names(events):
    """Event types without `response.`; a run of deltas counts once."""
    told = [event["type"].removeprefix("response.") for event in events]
    return [n for place, n in enumerate(told) if not (n.endswith("delta") and told[place - 1] == n)]


def test_thinking_and_an_answer(tokenizer):
    machine, events, _ = play(tokenizer, THINK + FINAL)
    item = ["output_item.added", "content_part.added", "{}.delta", "{}.done", "content_part.done"]
    expected = [
        name.format(kind)
        for kind in ("reasoning_text", "output_text")
        for name in (*item, "output_item.done")
    ]
    assert names(events) == expected
    reasoning, message = machine.output
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Hallö"
    assert (message["phase"], message["status"]) == ("final_answer", "completed")
    assert (machine.finish_reason, machine.counts.reasoning) == ("stop", 3)
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "Hallö"


def test_a_call_after_thinking_and_a_preamble(tokenizer):
    preamble = "<|channel|>commentary<|message|>I add.<|end|><|start|>assistant"
    machine, events, calls = play(tokenizer, THINK + preamble + CALL.format('{"a":1}'), functions=True)
    assert [item["type"] for item in machine.output] == ["reasoning", "message", "function_call"]
    assert machine.output[1]["phase"] == "commentary"
    call = machine.output[2]
    assert (call["name"], call["arguments"], call["status"]) == ("add", '{"a":1}', "completed")
    assert names(events)[-4:] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert machine.finish_reason == "tool_calls"
    assert [(call_id, [t.text for t in thoughts]) for call_id, thoughts in calls] == [
        (call["call_id"], ["Hm.", "I add."])
    ]


@pytest.mark.parametrize("batch", [1, 2, 5, 1000])
def test_any_batching_tells_the_same(tokenizer, batch):
    text = THINK + CALL.format('{"a":1}')
    one, _, _ = play(tokenizer, text, functions=True)
    other, events, _ = play(tokenizer, text, functions=True, batch=batch)
    assert other.output == one.output
    assert events[-1]["item"] == one.output[-1]


def test_a_cut_leaves_the_item_incomplete(tokenizer):
    machine, events, _ = play(tokenizer, "<|channel|>final<|message|>Hal", finish=FinishReason.LENGTH)
    assert machine.finish_reason == "length"
    assert machine.output[0]["status"] == "incomplete"
    assert machine.output[0]["content"][0]["text"] == "Hal"
    assert names(events)[-1] == "output_item.done"


def test_a_call_nobody_offered_is_thinking(tokenizer):
    machine, _, calls = play(tokenizer, CALL.format("{}"))
    assert [item["type"] for item in machine.output] == ["reasoning"]
    assert not calls


def test_a_call_without_arguments_is_json(tokenizer):
    machine, _, _ = play(tokenizer, CALL.format(""), functions=True)
    assert machine.output[0]["arguments"] == "{}"


def test_one_call_where_more_are_not_wanted(tokenizer):
    twice = CALL.format("{}").replace("<|call|>", "<|end|>") + "<|start|>assistant" + CALL.format("{}")
    machine, _, _ = play(tokenizer, twice, functions=True, parallel=False)
    assert len(machine.output) == 1
    assert machine.finish_reason == "tool_calls"


def test_log_probabilities_cover_the_text(tokenizer):
    machine, events, _ = play(tokenizer, THINK + FINAL, logprobs=0)
    entries = machine.output[1]["content"][0]["logprobs"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == "Hallö"
    told = [e for event in events if event["type"] == "response.output_text.delta" for e in event["logprobs"]]
    assert told == entries


def test_sealed_thinking(tokenizer):
    machine, _, _ = play(tokenizer, THINK + FINAL, seal=lambda text: f"<{text}>")
    assert machine.output[0]["encrypted_content"] == "<Hm.>"


async def stream(service, **fields):
    body = ResponsesRequest.model_validate({"input": "hi"} | fields)
    job = service.prepare(body, await service.earlier(body, ""), Caller())
    told = [payload async for batch in service.stream(job, lambda usage: None) for payload in batch]
    return [json.loads(payload) for payload in told]


async def test_the_whole_stream(make):
    services, _ = make(THINK + FINAL)
    events = await stream(services.responses)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == "response.completed"
    response = events[-1]["response"]
    assert response["store"] is True
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 16}
    assert json.loads(await services.responses.retrieve("", response["id"])) == response
    with pytest.raises(NotFoundError):
        await services.responses.retrieve("somebody else", response["id"])


async def test_a_failure_midway_is_the_last_event(make, encode):
    def script(request):
        yield TokenEvent(request.id, encode("<|channel|>final<|message|>Hal"))
        yield TokenEvent(request.id, finish=FinishReason.ERROR, error="The engine broke.")

    services, _ = make(script)
    events = await stream(services.responses)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "The engine broke."}
    assert events[-2]["type"] == "response.output_item.done"
    body = ResponsesRequest.model_validate({"input": "hi"})
    with pytest.raises(EngineError, match="broke"):
        await services.responses.complete(services.responses.prepare(body, [], Caller()), lambda usage: None)


async def test_a_store_that_fails_costs_the_record_only(make, watcher):
    services, _ = make(FINAL)
    services.responses._store.failing = True
    events = await stream(services.responses)
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["store"] is False
    assert watcher.lost == 1
