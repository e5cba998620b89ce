"""The learnt vocabulary: every byte, every control token, single digits, cheap boilerplate."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosso.harmony.tokenizer import Tokenizer
from mosso.train.vocabulary import CONTROL_TOKENS, byte_tokenizer, learn_vocabulary

BOILERPLATE = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\n\nReasoning: low<|end|><|start|>user<|message|>What is 12 + 345?<|end|>"
    "<|start|>assistant<|channel|>analysis<|message|>12 + 345 = 357<|end|>"
)
SIZE = 400


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(json.loads(learn_vocabulary([BOILERPLATE] * 20, size=SIZE).to_str()))


def test_the_size_is_as_asked_and_the_control_tokens_come_last(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == SIZE
    ids = range(SIZE - len(CONTROL_TOKENS), SIZE)
    assert [tokenizer.decode([i], control=True) for i in ids] == list(CONTROL_TOKENS)
    assert tokenizer.stop_ids == {
        tokenizer.control.return_, tokenizer.control.call, tokenizer.control.endoftext
    }  # fmt: skip


@given(st.text())
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_digit_stands_alone(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("12345 + 0.67kg")]
    assert [p for p in pieces if any(c.isdigit() for c in p)] == list("12345067")
    learnt = (tokenizer.decode([i]) for i in range(SIZE))
    assert not [t for t in learnt if any(c.isdigit() for c in t) and len(t) > 1]


def test_words_of_the_boilerplate_are_one_token_each(tokenizer: Tokenizer) -> None:
    for word in (" ChatGPT", "assistant", "analysis", "system", " language"):
        assert len(tokenizer.encode(word)) == 1


def test_no_merge_reaches_across_a_control_token(tokenizer: Tokenizer) -> None:
    assert "|" not in {tokenizer.decode([i]) for i in range(SIZE) if "|" in tokenizer.decode([i])} - {"|"}
    assert not [i for i in range(SIZE) if len(tokenizer.decode([i])) > 1 and "|" in tokenizer.decode([i])]


def test_the_byte_vocabulary_has_nothing_but_bytes_and_control_tokens() -> None:
    tokenizer = Tokenizer(json.loads(byte_tokenizer().to_str()))
    assert tokenizer.vocab_size == 256 + len(CONTROL_TOKENS)
    assert sorted(tokenizer.token_bytes(i) for i in range(256)) == [bytes([b]) for b in range(256)]
