import pytest

from mosso.api.chat_schema import ChatRequest
from mosso.api.sampling import check_stream_options, choice_seed, sampling_params
from mosso.api.settings import SamplingDefaults
from mosso.core.errors import RequestError, UnsupportedError
from mosso.core.requests import SamplingParams

STOPS = frozenset({258, 264})


PLAIN = SamplingDefaults()


def params(defaults=PLAIN, *, max_tokens=100, logprobs=None, **fields) -> SamplingParams:
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}]} | fields)
    return sampling_params(
        body, defaults, max_tokens=max_tokens, logprobs=logprobs, stop_ids=STOPS, vocab_size=269
    )


def test_plain_request_samples_plainly():
    assert params() == SamplingParams(max_tokens=100, stop_ids=STOPS)


def test_defaults_hold_where_the_client_says_nothing():
    defaults = SamplingDefaults(temperature=0.7, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1)
    got = params(defaults)
    assert (got.temperature, got.top_p, got.top_k, got.min_p, got.repetition_penalty) == (
        0.7,
        0.9,
        40,
        0.05,
        1.1,
    )
    got = params(defaults, temperature=0, top_p=1, top_k=-1, min_p=0, repetition_penalty=1)
    assert (got.temperature, got.top_p, got.top_k, got.min_p, got.repetition_penalty) == (0, 1, 0, 0, 1)


def test_every_field_arrives():
    got = params(
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=-1,
        min_tokens=3,
        logit_bias={"7": 1.5, "3": -100},
        stop_token_ids=[9],
        logprobs=None,
    )
    assert (got.presence_penalty, got.frequency_penalty, got.min_tokens) == (0.5, -0.5, 3)
    assert got.seed == 2**63 - 1
    assert got.logit_bias == ((3, -100.0), (7, 1.5))
    assert got.stop_ids == STOPS | {9}


def test_top_p_zero_is_greedy():
    assert (params(top_p=0, temperature=1).temperature, params(top_p=0).top_p) == (0.0, 1.0)


@pytest.mark.parametrize(("given", "used"), [(1e-9, 0.0), (1e-40, 0.0), (1e-4, 1e-4)])
def test_temperatures_that_no_logit_survives_are_greedy(given, used):
    assert params(temperature=given).temperature == used


@pytest.mark.parametrize(("given", "used"), [(5, 5), (10**6, 269), (2**63, 269), (10**30, 269)])
def test_top_k_is_at_most_the_vocabulary(given, used):
    assert params(top_k=given).top_k == used


def test_ignore_eos_keeps_only_the_clients_stop_ids():
    assert params(ignore_eos=True, stop_token_ids=[9]).stop_ids == {9}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_tokens": 101}, "min_tokens"),
        ({"stop_token_ids": [1, 269]}, "stop_token_ids[1]"),
        ({"logit_bias": {"269": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"٣": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ],
)
def test_values_that_cannot_be(fields, param):
    with pytest.raises(RequestError) as caught:
        params(**fields)
    assert caught.value.param == param


def test_seeds_of_choices_differ_and_the_first_is_the_clients():
    seeds = [choice_seed(7, choice) for choice in range(128)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 128
    assert not set(seeds) & {choice_seed(8, choice) for choice in range(128)}
    assert choice_seed(None, 3) is None


def test_stream_options_need_a_stream(chat):
    check_stream_options(chat())
    check_stream_options(chat(stream=True, stream_options={"include_usage": True}))
    with pytest.raises(RequestError) as caught:
        check_stream_options(chat(stream_options={}))
    assert caught.value.param == "stream_options"
    with pytest.raises(UnsupportedError) as unsupported:
        check_stream_options(chat(stream=True, stream_options={"include_obfuscation": True}))
    assert unsupported.value.param == "stream_options.include_obfuscation"
