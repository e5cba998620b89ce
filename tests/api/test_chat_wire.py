import math

from mosso.api.chat_wire import finite, token_entry


def test_logprobs_are_numbers_that_json_can_say():
    assert finite(-math.inf) == finite(math.nan) == -9999.0
    assert finite(-1.5) == -1.5


def test_control_tokens_have_a_name(tokenizer):
    assert token_entry(tokenizer, 258, 0.0)["token"] == "<|return|>"
    assert bytes(token_entry(tokenizer, 258, 0.0)["bytes"]) == b"<|return|>"
    assert token_entry(tokenizer, 0xC3, 0.0) == {"token": "\ufffd", "logprob": 0.0, "bytes": [0xC3]}
