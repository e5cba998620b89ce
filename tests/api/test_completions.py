import json

import pytest
from mosso_fakes import harmony

from mosso.api.caller import Caller
from mosso.api.completion_schema import Completion, CompletionRequest
from mosso.core.errors import RequestError, UnsupportedError

TEXT = "the Hallö<|return|>"


def request(**fields) -> CompletionRequest:
    return CompletionRequest.model_validate({"prompt": "Once"} | fields)


async def complete(services, body):
    answer = json.loads(
        await services.completions.complete(services.completions.prepare(body, Caller()), lambda u: None)
    )
    Completion.model_validate(answer)
    return answer


async def chunks(services, body):
    job = services.completions.prepare(body, Caller())
    made = [json.loads(c) async for batch in services.completions.stream(job, lambda u: None) for c in batch]
    for chunk in made:
        Completion.model_validate(chunk)
    return made


async def test_the_whole_answer(make):
    services, source = make(TEXT)
    answer = await complete(services, request())
    assert answer["choices"] == [{"index": 0, "text": "the Hallö", "logprobs": None, "finish_reason": "stop"}]
    assert source.seen[0].prompt == tuple(b"Once")
    assert answer["usage"]["prompt_tokens"] == 4
    assert answer["usage"]["completion_tokens"] == 9


async def test_chunks_add_up(make):
    services, _ = make(TEXT)
    made = await chunks(services, request(stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in made[:-1]) == "the Hallö"
    assert [chunk["choices"][0]["finish_reason"] for chunk in made[:-1]][-1] == "stop"
    assert made[-1]["choices"] == []
    assert made[-1]["usage"]["completion_tokens"] == 9
    options = {"continuous_usage_stats": True}
    made = await chunks(services, request(stream=True, stream_options=options))
    assert all(chunk["usage"] for chunk in made)


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("the", [(267 - 1,)]),
        (["a", "b"], [(97,), (98,)]),
        ([97, 261, 98], [(97, 261, 98)]),
        ([[97], [98, 99]], [(97,), (98, 99)]),
    ],
)
async def test_every_form_of_prompt(make, prompt, ids):
    services, source = make(TEXT)
    answer = await complete(services, request(prompt=prompt))
    assert [seen.prompt for seen in source.seen] == ids
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert len(answer["choices"]) == len(ids)


async def test_text_of_a_prompt_is_never_a_control_token(make):
    services, source = make(TEXT)
    await complete(services, request(prompt="<|start|>"))
    assert 261 not in source.seen[0].prompt


async def test_prompts_times_choices(make, tokenizer):
    services, source = make(lambda r: harmony(tokenizer, bytes(r.prompt).decode() + "!<|return|>"))
    answer = await complete(services, request(prompt=["a", "b"], n=2, best_of=2, echo=True, seed=1))
    assert [choice["text"] for choice in answer["choices"]] == ["aa!", "aa!", "bb!", "bb!"]
    assert answer["usage"]["prompt_tokens"] == 2
    assert [seen.sampling.seed for seen in source.seen[:2]] == [
        seen.sampling.seed for seen in source.seen[2:]
    ]
    made = await chunks(services, request(prompt=["a", "b"], echo=True, stream=True))
    assert "".join(c["choices"][0]["text"] for c in made if c["choices"][0]["index"] == 1) == "bb!"


async def test_stop_strings_and_stop_ids(make):
    services, source = make(TEXT)
    assert (await complete(services, request(stop="all")))["choices"][0]["text"] == "the H"
    assert source.aborted
    assert (await complete(services, request(stop="Hallöchen")))["choices"][0]["text"] == "the Hallö"
    assert (await complete(services, request(stop_token_ids=[ord("l")])))["choices"][0]["text"] == "the Ha"


async def test_length(make):
    services, source = make(TEXT)
    assert (await complete(services, request(max_tokens=2)))["choices"][0]["finish_reason"] == "length"
    source.max_context = 4
    with pytest.raises(RequestError) as caught:
        services.completions.prepare(request(), Caller())
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


async def test_logprobs_are_parallel_lists(make):
    services, _ = make(TEXT)
    got = (await complete(services, request(logprobs=1)))["choices"][0]["logprobs"]
    assert got["tokens"] == ["the", " ", "H", "a", "l", "l", "\ufffd", "\ufffd"]
    assert got["text_offset"] == [0, 3, 4, 5, 6, 7, 8, 8]
    assert got["token_logprobs"] == [-0.5] * 8
    assert got["top_logprobs"][0] == {"a": -98.0}
    made = await chunks(services, request(logprobs=1, stream=True))
    streamed = [c["choices"][0]["logprobs"] for c in made if c["choices"][0]["logprobs"]]
    assert [token for part in streamed for token in part["tokens"]] == got["tokens"]
    assert [offset for part in streamed for offset in part["text_offset"]] == got["text_offset"]
    cut = (await complete(services, request(logprobs=0, stop="all")))["choices"][0]["logprobs"]
    assert cut["tokens"] == ["the", " ", "H"]


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"best_of": 2}, UnsupportedError, "best_of"),
        ({"echo": True, "logprobs": 1}, UnsupportedError, "logprobs"),
        ({"prompt": ""}, RequestError, "prompt"),
        ({"prompt": []}, RequestError, "prompt"),
        ({"prompt": ["a", ""]}, RequestError, "prompt[1]"),
        ({"prompt": [1, 269]}, RequestError, "prompt[1]"),
        ({"prompt": [[1], [2, 300]]}, RequestError, "prompt[1][1]"),
        ({"prompt": ["a"] * 1025}, RequestError, "prompt"),
        ({"n": 60}, RequestError, "n"),
        ({"n": 50, "prompt": ["a"] * 21}, RequestError, "n"),
        ({"stop": ["x"] * 17}, RequestError, "stop"),
    ],
)
def test_what_cannot_be_is_refused(make, fields, kind, param):
    services, source = make(TEXT, max_choices=50)
    with pytest.raises(kind) as caught:
        services.completions.prepare(request(**fields), Caller())
    assert caught.value.param == param
    assert source.seen == []
