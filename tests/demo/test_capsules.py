"""The demo's requests as capsules, run again by `mosso replay`; its log, in which nobody's text is."""

from __future__ import annotations

import json

import httpx
import pytest
from click.testing import CliRunner
from openai import BadRequestError

from mosso.cli.main import main
from mosso.server.capsules import read_capsule

SECRET = "xyzzy-plugh-4711"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome", SECRET]}},
    "required": ["city"],
    "additionalProperties": False,
}
ASKED = [
    {"messages": [{"role": "user", "content": f"What is 48 + 77? {SECRET}"}], "temperature": 1, "n": 2},
    {
        "messages": [{"role": "user", "content": SECRET}],
        "max_tokens": 300,
        "temperature": 1.2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}},
        "logprobs": True,
    },
]


@pytest.fixture(scope="module")
def served(serving_demo, tmp_path_factory):
    """The folder of the capsules and the log's lines, of a server that is gone."""
    base = tmp_path_factory.mktemp("capsules")
    flags = ("--capsule-dir", str(base / "c"), "--capsules", "all", "--log-format", "json")
    with serving_demo(base / "log", *flags, "--log-level", "debug") as server:
        for number, body in enumerate(ASKED):
            name = {"x-request-id": f"ask-{number}"}
            server.client.chat.completions.create(model="demo", **body, extra_headers=name)
        with pytest.raises(BadRequestError):
            server.client.chat.completions.create(model="demo", messages=[{"role": SECRET, "content": 1}])
        httpx.post(f"{server.url}/v1/responses", json={"input": SECRET, "max_output_tokens": 20}, timeout=60)
        stream = {"model": "demo", "messages": ASKED[0]["messages"], "stream": True}
        with httpx.stream(
            "POST",
            f"{server.url}/v1/chat/completions",
            json=stream,
            headers={"x-request-id": "left"},
            timeout=60,
        ) as response:
            next(response.iter_lines())
    return base / "c", (base / "log").read_text().splitlines()


def capsule_of(served, name):
    (path,) = served[0].glob(f"*-{name}.json")
    return path


def replay(*arguments):
    result = CliRunner().invoke(main, ["replay", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_log_is_json_and_holds_no_text(served) -> None:
    lines = [json.loads(line) for line in served[1]]
    requests = [line for line in lines if line["message"] == "request" and line["path"].startswith("/v1/")]
    assert {line["request_id"] for line in requests} >= {"ask-0", "ask-1", "left"}
    assert [line for line in served[1] if SECRET in line] == []


def test_capsules_hold_ids_and_versions(served) -> None:
    read = read_capsule(capsule_of(served, "ask-0"))
    assert read.about["model"] == "demo"
    assert read.about["versions"].keys() >= {"mosso", "python", "torch"}
    assert read.about["engine"]["device"] == "cpu"
    assert "/" not in json.dumps(read.about["engine"]), "no path of this machine"
    assert len(read.sequences) == 2
    assert read.sequences[0].request.sampling.seed != read.sequences[1].request.sampling.seed


@pytest.mark.parametrize("name", ["ask-0", "ask-1", "left"])
def test_a_replay_gives_the_same(served, name) -> None:
    """Whole answers, without a seed of the client's and in a form, and one that its client left."""
    status, said = replay(capsule_of(served, name))
    assert status == 0, said
    sequences = read_capsule(capsule_of(served, name)).sequences
    assert said.count("the same") == len(sequences)


def test_a_replay_says_where_it_differs(served, tmp_path) -> None:
    capsule = json.loads(capsule_of(served, "ask-0").read_text())
    del capsule["sequences"][1]
    sequence = capsule["sequences"][0]
    sequence["tokens"][5] += 1
    capsule["about"]["versions"]["torch"] = "0.1"
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(capsule))
    status, said = replay(changed, "demo")
    assert status == 1
    assert "it was 0.1" in said
    assert f"token 5 of {len(sequence['tokens'])} differs" in said
    assert "mosso: the answer differs" in said


def test_no_capsule(tmp_path) -> None:
    (tmp_path / "c.json").write_text("[]")
    status, said = replay(tmp_path / "c.json")
    assert status == 1
    assert "is no capsule" in said
