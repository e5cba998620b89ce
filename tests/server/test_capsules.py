"""Capsules: which requests get one, and what is in it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from mosso_fakes import SECRET, small_tokenizer

from mosso.core.constraints import Call, Grammar, GrammarKind, TurnConstraint
from mosso.core.errors import EngineError, UsageError
from mosso.core.requests import Request, SamplingParams, TokenLogprob
from mosso.server import capsules as module
from mosso.server.capsules import HEADER, Capsules, CapsuleSequence, read_capsule

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-oss-test", "messages": [{"role": "user", "content": SECRET}], "cache_salt": "mine"}


def written(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def test_one_that_was_asked_for(serve, soon, tmp_path) -> None:
    server = serve(watchers=[Capsules(tmp_path, "asked", {"model": "m"})])
    server.post(CHAT, BODY)
    server.post(CHAT, BODY, headers={HEADER: "0"})
    body = BODY | {"n": 2, "logprobs": True, "top_logprobs": 2, "stream": True}
    server.post(CHAT, body, headers={HEADER: "1", "x-request-id": "../me"})
    soon(lambda: written(tmp_path))
    (path,) = written(tmp_path)
    assert path.name.endswith("-___me.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert SECRET not in path.read_text(), "ids, no text"
    assert '"mine"' not in path.read_text(), "a salt may be made from a key"
    read = read_capsule(path)
    assert read.about == {"model": "m"}
    assert read.served["status"] == 200
    assert len(read.sequences) == 2
    for sequence, asked in zip(read.sequences, server.source.seen[2:], strict=True):
        assert sequence.request.prompt == asked.prompt
        assert sequence.request.sampling.seed is not None, "so that it can be run again"
        assert sequence.request.sampling == asked.sampling
        assert tuple(sequence.tokens) == tuple(server.source.script(asked))
        assert [entry.token for entry in sequence.logprobs] == sequence.tokens
        assert sequence.finish == "stop"


@pytest.mark.parametrize(("which", "count"), [("asked", 0), ("failed", 1), ("all", 2)])
def test_which_are_written(serve, soon, tmp_path, which, count) -> None:
    server = serve(watchers=[Capsules(tmp_path, which, {})])
    server.post(CHAT, BODY)
    server.post(CHAT, {"messages": 1})
    server.source.start_error = EngineError("burnt")
    server.post(CHAT, BODY)
    server.stop()
    assert len(written(tmp_path)) == count
    if count:
        failed = read_capsule(written(tmp_path)[-1])
        assert failed.sequences[0].error == "burnt"
        assert failed.sequences[0].finish is None
        assert failed.served["status"] == 500


def test_with_the_text_where_that_is_asked(serve, soon, tmp_path) -> None:
    server = serve(watchers=[Capsules(tmp_path, "all", {}, small_tokenizer())])
    server.post(CHAT, BODY)
    soon(lambda: written(tmp_path))
    text = read_capsule(written(tmp_path)[0]).sequences[0].text
    assert SECRET in text.prompt
    assert text.answer.endswith("the Hallö")


def test_the_oldest_are_deleted(serve, soon, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    server = serve(watchers=[Capsules(tmp_path, "all", {})])
    for name in "abc":
        server.post(CHAT, BODY, headers={"x-request-id": name})
    server.stop()
    assert [path.name.rpartition("-")[2] for path in written(tmp_path)] == ["b.json", "c.json"]


def test_a_full_disk_is_no_fault_of_the_request(serve, tmp_path, caplog) -> None:
    server = serve(watchers=[Capsules(tmp_path / "gone", "all", {})])
    assert server.post(CHAT, BODY).status_code == 200
    server.stop()
    assert "a capsule could not be written: No such file or directory" in caplog.text


def test_a_disk_that_fills_leaves_no_half_of_one(serve, tmp_path, monkeypatch, caplog) -> None:
    def opened(path: str, flags: int) -> int:
        descriptor = private(path, flags)
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, descriptor)
        os.close(full)
        return descriptor

    private = module._private
    monkeypatch.setattr(module, "_private", opened)
    server = serve(watchers=[Capsules(tmp_path, "all", {})])
    assert server.post(CHAT, BODY).status_code == 200
    server.stop()
    assert "a capsule could not be written: No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_in_the_background_it_is_written_at_the_end(serve, soon, tmp_path) -> None:
    server = serve(watchers=[Capsules(tmp_path, "all", {})])
    begun = server.post("/v1/responses", {"input": "a", "background": True, "store": True}).json()
    soon(lambda: server.http.get(f"/v1/responses/{begun['id']}").json()["status"] == "completed")
    server.stop()
    (path,) = written(tmp_path)
    assert read_capsule(path).sequences[0].finish == "stop"


def test_every_value_survives_the_file() -> None:
    form = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}', "response_format", strict=False)
    sampling = SamplingParams(9, seed=3, logit_bias=((4, -1.5),), stop_ids=frozenset({1, 2}), logprobs=2)
    constraint = TurnConstraint(None, (Call("functions.a", form),))
    request = Request(
        "a", (1, 2), sampling, constraint=constraint, recipients=("functions.a",), thinking_budget=7
    )
    logprob = TokenLogprob(1, -math.inf, ((2, -0.5),))
    sequence = CapsuleSequence(request=request, tokens=[1], logprobs=[logprob])
    assert CapsuleSequence.model_validate_json(sequence.model_dump_json()) == sequence


def test_what_is_no_capsule(tmp_path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(UsageError, match=r"c\.json: No such file"):
        read_capsule(path)
    path.write_text("{")
    with pytest.raises(UsageError, match="is no capsule: the file"):
        read_capsule(path)
    path.write_text(json.dumps({"format": 2}))
    with pytest.raises(UsageError, match="is no capsule: format"):
        read_capsule(path)
