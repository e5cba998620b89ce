"""The chat service over a scripted source: whole answers, chunks, choices, failures."""

import json

import pytest
from mosso_fakes import harmony

from mosso.api.caller import Caller
from mosso.api.chat_schema import ChatCompletion, ChatCompletionChunk
from mosso.core.errors import (
    EngineError,
    NotFoundError,
    RequestError,
    UnavailableError,
)
from mosso.core.requests import FinishReason, TokenEvent

THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
ANSWER = THINK + "<|channel|>final<|message|>the Hallö<|return|>"
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def ignore(usage):
    pass


async def complete(services, body):
    answer = json.loads(await services.chat.complete(services.chat.prepare(body, Caller()), ignore))
    ChatCompletion.model_validate(answer)
    return answer


async def chunks(services, body):
    made = []
    async for batch in services.chat.stream(services.chat.prepare(body, Caller()), ignore):
        assert batch
        made += [json.loads(chunk) for chunk in batch]
    for chunk in made:
        ChatCompletionChunk.model_validate(chunk)
    return made


def joined(made, field, choice=0):
    return "".join(
        part["delta"].get(field) or ""
        for chunk in made
        for part in chunk["choices"]
        if part["index"] == choice
    )


async def test_the_whole_answer(make, chat):
    services, source = make(ANSWER)
    answer = await complete(services, chat(model="test"))
    assert answer["model"] == "test"
    assert answer["created"] == 1000
    assert answer["choices"][0]["message"]["content"] == "the Hallö"
    assert answer["choices"][0]["finish_reason"] == "stop"
    prompt = len(source.seen[0].prompt)
    generated = answer["usage"]["completion_tokens"]
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert source.aborted == []


async def test_chunks_add_up_to_the_whole(make, chat):
    services, _ = make(ANSWER)
    made = await chunks(services, chat(stream=True, stream_options={"include_usage": True}))
    assert made[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert joined(made, "content") == "the Hallö"
    assert joined(made, "reasoning") == joined(made, "reasoning_content") == "Hm."
    assert [c["choices"][0]["finish_reason"] for c in made[:-1]] == [None] * (len(made) - 2) + ["stop"]
    assert all(chunk["usage"] is None for chunk in made[:-1])
    assert made[-1]["choices"] == []
    assert made[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    assert len({chunk["id"] for chunk in made}) == 1


async def test_usage_comes_only_when_asked_for(make, chat):
    services, _ = make(ANSWER)
    assert not any("usage" in chunk for chunk in await chunks(services, chat(stream=True)))
    options = {"continuous_usage_stats": True, "include_usage": True}
    made = await chunks(services, chat(stream=True, stream_options=options))
    counts = [chunk["usage"]["completion_tokens"] for chunk in made[1:]]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ("both", {"reasoning", "reasoning_content"}),
        ("reasoning", {"reasoning"}),
        ("reasoning_content", {"reasoning_content"}),
        ("none", set()),
    ],
)
async def test_the_fields_that_carry_the_thinking(make, chat, fields, shown):
    services, _ = make(ANSWER, reasoning_fields=fields)
    message = (await complete(services, chat()))["choices"][0]["message"]
    assert {name for name in message if name.startswith("reasoning")} == shown
    made = await chunks(services, chat(stream=True))
    names = {name for chunk in made for name in chunk["choices"][0]["delta"]}
    assert {name for name in names if name.startswith("reasoning")} == shown
    assert joined(made, "content") == "the Hallö"


async def test_a_streamed_call(make, chat):
    call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{1}<|call|>"
    services, _ = make(THINK + call)
    made = await chunks(services, chat(stream=True, tools=TOOLS))
    pieces = [p for c in made for p in c["choices"][0]["delta"].get("tool_calls", [])]
    assert pieces[0]["function"] == {"name": "f", "arguments": ""}
    assert pieces[0]["id"].startswith("call_")
    assert [piece["function"]["arguments"] for piece in pieces[1:]] == ["{", "1", "}"]
    assert made[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_choices_share_the_prompt_and_differ_in_seed(make, chat, tokenizer):
    letters = iter("abc")
    services, source = make(
        lambda request: harmony(tokenizer, f"<|channel|>final<|message|>{next(letters)}<|return|>")
    )
    answer = await complete(services, chat(n=3, seed=5))
    assert sorted(choice["message"]["content"] for choice in answer["choices"]) == ["a", "b", "c"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == len(source.seen[0].prompt)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 16
    assert source.seen[0].sampling.seed == 5
    assert len({request.sampling.seed for request in source.seen}) == 3
    assert len({request.id for request in source.seen}) == 3


async def test_streamed_choices_are_interleaved_and_whole(make, chat):
    services, _ = make(ANSWER)
    made = await chunks(services, chat(n=3, stream=True))
    assert [joined(made, "content", choice) for choice in range(3)] == ["the Hallö"] * 3
    order = [chunk["choices"][0]["index"] for chunk in made]
    assert order != sorted(order)


async def test_logprobs_with_their_bytes(make, chat):
    services, _ = make(THINK + "<|channel|>final<|message|>the ö<|return|>")
    entries = (await complete(services, chat(logprobs=True, top_logprobs=2)))["choices"][0]["logprobs"][
        "content"
    ]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == "the ö"
    assert entries[0]["token"] == "the"
    assert entries[0]["top_logprobs"] == [
        {"token": "a", "logprob": -98.0, "bytes": [97]},
        {"token": "b", "logprob": -99.0, "bytes": [98]},
    ]
    made = await chunks(services, chat(logprobs=True, stream=True))
    streamed = [e for c in made for e in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in entries]
    assert all(entry["top_logprobs"] == [] for entry in streamed)


async def test_no_logprobs_unless_asked_for(make, chat):
    services, source = make(ANSWER)
    assert (await complete(services, chat()))["choices"][0]["logprobs"] is None
    assert source.seen[0].sampling.logprobs is None


async def test_a_stop_string_aborts_the_engines_request(make, chat, watcher):
    services, source = make(ANSWER)
    answer = await complete(services, chat(stop=["Ha", "x"]))
    assert answer["choices"][0]["message"]["content"] == "the "
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert source.aborted == [source.seen[0].id]
    assert watcher.ends[0][0] == "stop"


async def test_stop_ids_are_the_models_and_the_clients(make, chat, tokenizer):
    services, source = make(ANSWER)
    answer = await complete(services, chat(stop_token_ids=[0xC3, 258]))
    assert source.seen[0].sampling.stop_ids == tokenizer.stop_ids | {0xC3}
    assert answer["choices"][0]["message"]["content"] == "the Hall"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_length(make, chat, name):
    services, _ = make(ANSWER)
    answer = await complete(services, chat(**{name: 5}))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


async def test_what_is_left_of_the_context_bounds_the_answer(make, chat):
    services, source = make(ANSWER)
    prompt = len(services.chat.prepare(chat(), Caller()).requests[0].prompt)
    source.max_context = prompt + 7
    assert services.chat.prepare(chat(), Caller()).requests[0].sampling.max_tokens == 7
    assert services.chat.prepare(chat(max_tokens=100), Caller()).requests[0].sampling.max_tokens == 7
    assert services.chat.prepare(chat(max_tokens=3), Caller()).requests[0].sampling.max_tokens == 3
    source.max_context = prompt
    with pytest.raises(RequestError) as caught:
        services.chat.prepare(chat(), Caller())
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")
    assert f"resulted in {prompt} tokens" in caught.value.message


def test_priority_and_salt_reach_the_engine(make, chat):
    services, _ = make(ANSWER)
    request = services.chat.prepare(chat(priority=3, cache_salt="s"), Caller()).requests[0]
    assert (request.priority, request.cache_salt) == (3, "/s")


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"model": "gpt-4"}, NotFoundError, "model"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, RequestError, "max_tokens"),
        ({"top_logprobs": 1}, RequestError, "top_logprobs"),
        ({"n": 100}, RequestError, "n"),
        ({"stop": ["x"] * 17}, RequestError, "stop"),
        ({"response_format": {"type": "json_schema"}}, RequestError, "response_format.json_schema"),
        ({"tool_choice": "required"}, RequestError, "tool_choice"),
    ],
)
def test_what_cannot_be_is_refused_before_the_engine_sees_it(make, chat, fields, kind, param):
    services, source = make(ANSWER, max_choices=50)
    with pytest.raises(kind) as caught:
        services.chat.prepare(chat(**fields), Caller())
    assert caught.value.param == param
    assert source.seen == []


def test_harmless_fields_are_accepted(make, chat):
    services, _ = make(ANSWER)
    harmless = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "modalities": ["text"],
        "response_format": {"type": "text"},
        "parallel_tool_calls": True,
    }
    assert services.chat.prepare(chat(**harmless), Caller())


def events(*made):
    return lambda request: [TokenEvent(request.id, *parts) for parts in made]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        (((), (), FinishReason.ERROR, 0, "it burns"), EngineError, "it burns"),
        (((), (), FinishReason.ERROR), EngineError, "The engine failed"),
        (((), (), FinishReason.ERROR, 0, "too complex", False, True), RequestError, "too complex"),
        (((), (), FinishReason.ABORT), UnavailableError, "aborted"),
        (((65,),), EngineError, "without a reason"),
    ],
)
async def test_failures_of_the_engine(make, chat, watcher, n, made, kind, message):
    services, source = make(events(made))
    with pytest.raises(kind, match=message):
        await services.chat.complete(services.chat.prepare(chat(n=n), Caller()), ignore)
    assert source.open == set()
    assert watcher.ends[0][0] == "error"


@pytest.mark.parametrize("n", [1, 3])
async def test_closing_the_stream_aborts_every_choice(make, chat, watcher, n):
    services, source = make(ANSWER)
    told = []
    stream = services.chat.stream(services.chat.prepare(chat(n=n, stream=True), Caller()), told.append)
    await anext(stream)
    assert len(source.open) == n
    await stream.aclose()
    assert source.open == set()
    assert len(source.aborted) == n
    assert [reason for reason, _ in watcher.ends] == ["abort"] * n
    assert told[0].prompt_tokens == len(source.seen[0].prompt)


async def test_the_observer_is_told(make, chat, watcher):
    services, _ = make("no header at all<|return|>")
    answer = await complete(services, chat())
    generated = answer["usage"]["completion_tokens"]
    assert watcher.ends == [("stop", generated)]
    assert (watcher.first, watcher.more) == (1, generated - 1)
    assert watcher.repairs


async def test_events_without_tokens_are_passed_over(make, chat, watcher, tokenizer):
    answer = harmony(tokenizer, "<|channel|>final<|message|>x<|return|>")
    services, _ = make(events(((),), (answer, (), FinishReason.STOP)))
    assert joined(await chunks(services, chat(stream=True)), "content") == "x"
    assert watcher.first == 1


def test_the_real_clock_is_the_default():
    from mosso.api.settings import today, unix_now

    assert len(today()) == 10
    assert unix_now() > 1_700_000_000
