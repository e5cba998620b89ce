from __future__ import annotations

import json
import pickle
import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosso.core.errors import CheckpointError, RequestError
from mosso.harmony.tokenizer import Tokenizer

PIECES = ["<|", "|>", "<|start|>", "<|end|>", "<|call", "return|>", "start", "end", "message", "<", "|", ">"]
PIECES += ["<|reserved_200000|>", "<|endoftext|>", "é", "漢", "🙂"]
PIECES += ["I'm", "DON'T", "WE'LL", "He's", "12345", "CamelCase", "\r\n", "/**/\n"]
FRAGMENTS = st.sampled_from([*PIECES, " ", "\n", "plain added", "\ud83d", "\ude42", "\u0301"])
TEXTS = st.lists(st.one_of(FRAGMENTS, st.text(max_size=8)), max_size=12).map("".join)


def as_utf8(text: str) -> str:
    """What UTF-8 can hold of a Python string: surrogate pairs joined, lone ones replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_control_tokens_have_the_published_ids(tokenizer: Tokenizer) -> None:
    control = tokenizer.control
    assert (control.startoftext, control.endoftext) == (199998, 199999)
    assert (control.return_, control.constrain, control.channel) == (200002, 200003, 200005)
    assert (control.start, control.end, control.message, control.call) == (200006, 200007, 200008, 200012)
    assert tokenizer.stop_ids == {200002, 200012, 199999}
    assert control.end not in tokenizer.stop_ids
    assert tokenizer.vocab_size == 200019
    assert tokenizer.encode("analysis final commentary") == [35644, 1721, 49159]
    assert tokenizer.encode("commentary") == [12606, 815]
    assert tokenizer.encode("DON'T") == [134882, 51532]


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_encoding_equals_the_official_one_and_comes_back(
    tokenizer: Tokenizer, official: Any, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert ids == official.encode(text, disallowed_special=())
    assert tokenizer.decode(ids) == as_utf8(text)
    assert b"".join(map(tokenizer.token_bytes, ids)) == as_utf8(text).encode()


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_no_text_becomes_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    assert not any(map(tokenizer.is_control, tokenizer.encode(text)))


@given(text=TEXTS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_becomes_a_control_token_even_through_merges(
    small_definition: dict[str, Any], text: str
) -> None:
    small = Tokenizer(small_definition)
    ids = small.encode(text)
    assert not any(map(small.is_control, ids))
    assert small.decode(ids) == as_utf8(text)  # and the file's truncation to 4 tokens is not applied


def test_merges_and_plain_added_tokens_still_work(small_definition: dict[str, Any]) -> None:
    small = Tokenizer(small_definition)
    vocab = small_definition["model"]["vocab"]
    assert small.encode("<|end|>") == [vocab["<|end"], vocab["|>"]]
    assert small.encode("<|end") == [vocab["<|end"]]
    plain = len(vocab)
    assert small.encode("a plain added b") == [*small.encode("a "), plain, *small.encode(" b")]
    assert small.token_bytes(plain) == b"plain added"
    assert not small.is_control(plain)


def test_merges_written_as_strings_are_read(small_definition: dict[str, Any]) -> None:
    model = small_definition["model"]
    expected = Tokenizer(small_definition).encode("the end <|end|>")
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    assert Tokenizer(small_definition).encode("the end <|end|>") == expected


def test_control_tokens_may_stand_in_the_vocabulary_alone(small_definition: dict[str, Any]) -> None:
    small_definition["added_tokens"] = []
    small = Tokenizer(small_definition)
    assert small.is_control(small.control.start)
    assert not any(map(small.is_control, small.encode("<|start|><|end|>")))


@pytest.mark.parametrize("token", [-1, -200006, 200019, 201087, 10**9, 200006, 200000])
def test_ids_without_bytes(tokenizer: Tokenizer, token: int) -> None:
    assert tokenizer.token_bytes(token) == b""
    assert tokenizer.decode([token]) == ""


def test_decode_can_show_control_tokens(tokenizer: Tokenizer) -> None:
    control = tokenizer.control
    ids = [control.start, *tokenizer.encode("user"), control.message, *tokenizer.encode("hé"), 10**9]
    assert tokenizer.decode(ids, control=True) == "<|start|>user<|message|>hé"
    assert tokenizer.decode(ids) == "userhé"


def test_decode_replaces_invalid_utf8(tokenizer: Tokenizer) -> None:
    (token,) = (i for i in range(256) if tokenizer.token_bytes(i) == b"\xff")
    assert tokenizer.decode([token, *tokenizer.encode("a")]) == "\ufffda"


def test_reserved_tokens_are_control(tokenizer: Tokenizer) -> None:
    assert tokenizer.is_control(200000)
    assert tokenizer.is_control(200018)  # endofprompt
    assert not tokenizer.is_control(201000)  # no token at all
    assert not tokenizer.is_control(1234)


@pytest.mark.parametrize("text", ["a" * 100_000, " " * 100_000 + "x", "\n" * 100_000, "🙂" * 25_000])
def test_long_runs_come_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def write(folder: Path, definition: object) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(definition), encoding="utf-8")
    return path


def test_texts_that_no_context_holds_are_refused_unread(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.within(100).encode("\n " * (1 << 17))) > 0
    with pytest.raises(RequestError, match="262,145 characters is far longer"):
        tokenizer.within(8192).encode("x" * (1 << 18 | 1))
    tokenizer.within(8193).encode("x" * (1 << 18 | 1))


def test_what_the_library_gives_up_is_a_mistake_of_the_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        tokenizer.encode(" " * 10**7)


def test_file_and_folder(tmp_path: Path, small_definition: dict[str, Any]) -> None:
    path = write(tmp_path, small_definition)
    (tmp_path / "original").mkdir()
    expected = Tokenizer(small_definition).encode("the end")
    for small in (
        Tokenizer.from_file(path),
        Tokenizer.from_file(str(path)),
        Tokenizer.from_folder(tmp_path),
        Tokenizer.from_folder(tmp_path / "original"),
    ):
        assert small.encode("the end") == expected


@pytest.mark.parametrize("missing", ["<|start|>", "<|return|>", "<|constrain|>"])
def test_a_missing_control_token_is_named(
    tmp_path: Path, small_definition: dict[str, Any], missing: str
) -> None:
    del small_definition["model"]["vocab"][missing]
    small_definition["added_tokens"] = [
        token for token in small_definition["added_tokens"] if token["content"] != missing
    ]
    path = write(tmp_path, small_definition)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_folder(tmp_path)
    assert missing in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.file == str(path)
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message


def damaged(definition: dict[str, Any]) -> list[tuple[Any, str]]:
    unigram, words, merges, flat = (deepcopy(definition) for _ in range(4))
    unigram["model"]["type"] = "Unigram"
    words["pre_tokenizer"] = {"type": "Whitespace"}
    merges["model"]["merges"].append(["no such token", "x"])
    flat["model"]["vocab"] = ["a", "b"]
    return [
        (unigram, "not a byte-level BPE"),
        (words, "not a byte-level BPE"),
        (merges, "damaged"),
        (flat, "no vocabulary"),
        ([], "no vocabulary"),
        ({"model": {}}, "no vocabulary"),
    ]


def test_damaged_definitions_give_one_sentence(tmp_path: Path, small_definition: dict[str, Any]) -> None:
    for definition, sentence in damaged(small_definition):
        path = write(tmp_path, definition)
        with pytest.raises(CheckpointError, match=sentence) as caught:
            Tokenizer.from_file(path)
        assert str(path) in caught.value.message


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.from_file(path)
    path.write_text('{"model": ', encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        Tokenizer.from_file(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="damaged"):
        Tokenizer.from_file(path)
    vocabulary = tmp_path / "broken.tiktoken"
    vocabulary.write_text("not base64! 1\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        Tokenizer.from_file(vocabulary)


def test_other_threads_run_while_a_long_text_is_encoded(tokenizer: Tokenizer) -> None:
    """The server encodes long prompts in a thread; its event loop must not stand still meanwhile."""
    beats, done = 0, threading.Event()

    def beat() -> None:
        nonlocal beats
        while not done.wait(0.001):
            beats += 1

    thread = threading.Thread(target=beat)
    thread.start()
    before = beats
    tokenizer.encode("What is 123 + 456? " * 20_000)
    during = beats - before
    done.set()
    thread.join()
    assert during > 5
