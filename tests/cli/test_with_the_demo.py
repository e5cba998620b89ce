"""chat, generate, bench and eval against the demo model."""

from __future__ import annotations

import json

from patient_engines import keep_engines_near


def test_chat_answers_piped_lines(run, url) -> None:
    result = run("chat", url, "--temperature", "0", stdin="What is 12 + 30?\nNow double it.\n")
    assert result.exit_code == 0
    assert "= 42." in result.output
    assert "= 84." in result.output
    assert "tokens" in result.output


def test_chat_into_a_pipe_gives_the_answers_alone(run, url) -> None:
    result = run("chat", url, "--temperature", "0", stdin="What is 12 + 30?\nNow double it.\n")
    assert result.stdout == "12 + 30 = 42.\n42 × 2 = 84.\n"
    assert "ones: 2+0=2, write 2." in result.stderr
    assert "tokens/s" in result.stderr


def test_chat_says_that_an_answer_was_cut_off(run, url) -> None:
    result = run("chat", url, "--max-tokens", "3", stdin="What is 1 + 1?\n")
    assert result.stderr == "3 tokens · cut off at the limit of tokens\n"


def test_chat_says_once_what_went_wrong(run, url) -> None:
    result = run("chat", url, "--name", "foo", stdin="What is 1 + 1?\n")
    assert result.exit_code
    assert result.stderr.count("foo") == 1


def test_chat_shows_calls_and_takes_their_results(run, url, tmp_path) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the current weather for a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    (tmp_path / "tools.json").write_text(json.dumps([tool]))
    talk = 'What is the weather in Paris?\n{"temperature": 18}\n'
    result = run("chat", url, "--tools", tmp_path / "tools.json", "--temperature", "0", stdin=talk)
    assert result.exit_code == 0
    assert "→ get_weather" in result.output
    assert '{"city": "Paris"}' in result.output
    assert "The temperature is 18." in result.output


def test_chat_commands(run, url) -> None:
    result = run(
        "chat", url, stdin="/help\n/effort low\n/effort extreme\n/new\n/system Be brief.\n/x\n/quit\n"
    )
    for said in (
        "/effort low|medium|high",
        "effort: low",
        "effort is one of",
        "a new conversation",
        "no command",
    ):
        assert said in result.output


def test_chat_says_what_the_server_refuses(run, url) -> None:
    result = run("chat", url, "--temperature", "99", stdin="hello\n")
    assert result.exit_code == 1
    assert "400" in result.output
    assert "temperature" in result.output


def test_generate_answers_and_resumes(run, url, tmp_path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bodies = [
        {
            "custom_id": f"sum-{n}",
            "messages": [{"role": "user", "content": f"What is {n} + 1?"}],
            "temperature": 0,
        }
        for n in range(1, 6)
    ]
    batch = {"custom_id": "batch", "url": "/v1/chat/completions", "body": bodies[0] | {"model": "other"}}
    del batch["body"]["custom_id"]
    lines = [*bodies, batch, {"prompt": "hello", "max_tokens": 3}]
    source.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    result = run("generate", source, target, "--model", url)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert {row["custom_id"] for row in rows} == {*(f"sum-{n}" for n in range(1, 6)), "batch", "7"}
    by_id = {row["custom_id"]: row["response"] for row in rows}
    assert by_id["sum-4"]["choices"][0]["message"]["content"] == "4 + 1 = 5."

    kept = target.read_text().splitlines()[:3]
    target.write_text("\n".join(kept) + "\n" + '{"custom_id": "cut')  # a crash in the middle of a line
    again = run("generate", source, target, "--model", url)
    assert "4 answered, 3 were there already" in again.output
    assert len(target.read_text().splitlines()) == 7


def test_generate_answers_a_batch_file_as_a_batch_does(run, url, tmp_path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bodies = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "What is 2 + 3?"}]},
        "/v1/completions": {"prompt": "hello", "max_tokens": 2},
        "/v1/responses": {"input": "What is 2 + 3?"},
    }
    lines = [
        {"custom_id": path, "method": "POST", "url": path, "body": {"temperature": 0, **body}}
        for path, body in bodies.items()
    ]
    bad = {"custom_id": "bad", "method": "POST", "url": "/v1/responses", "body": {"input": 1}}
    source.write_text("".join(json.dumps(line) + "\n" for line in [*lines, bad, {"input": "hello"}]))
    result = run("generate", source, target, "--model", url)
    assert "4 answered, 0 were there already, 1 failed" in result.output
    assert "1 request failed" in result.output
    rows = {row["custom_id"]: row for row in map(json.loads, target.read_text().splitlines())}
    for path in bodies:
        assert rows[path].keys() == {"id", "custom_id", "response", "error"}
        assert rows[path]["response"]["status_code"] == 200
        assert rows[path]["error"] is None
    assert (
        rows["/v1/chat/completions"]["response"]["body"]["choices"][0]["message"]["content"] == "2 + 3 = 5."
    )
    assert rows["bad"]["response"]["status_code"] == 400
    assert rows["bad"]["response"]["body"]["error"]["param"] == "input"
    assert rows["5"]["response"]["object"] == "response"
    again = run("generate", source, target, "--model", url)
    assert "0 answered, 4 were there already, 1 failed" in again.output, "only what failed is tried again"


def test_generate_says_that_it_cannot_write(run, url, tmp_path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "hello", "max_tokens": 1}\n')
    result = run("generate", source, "/dev/full", "--model", url)
    assert result.exit_code == 1
    assert "cannot write /dev/full" in result.output


def test_generate_keeps_going_past_a_bad_request(run, url, tmp_path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = {"messages": [{"role": "user", "content": "hello"}]}
    source.write_text(json.dumps(good | {"temperature": -1}) + "\n" + json.dumps(good) + "\n")
    result = run("generate", source, target, "--model", url)
    assert result.exit_code == 1
    rows = {row["custom_id"]: row for row in map(json.loads, target.read_text().splitlines())}
    assert rows["1"]["error"]["param"] == "temperature"
    assert "response" in rows["2"]


def test_generate_names_a_target_it_cannot_use(run, tmp_path) -> None:
    source, other = tmp_path / "in.jsonl", tmp_path / "other.jsonl"
    source.write_text('{"prompt": "hello"}\n')
    other.write_text("notes of mine\n")
    for target, said in (
        (tmp_path / "none" / "out.jsonl", "does not exist"),
        (source, "both IN and OUT"),
        (other, f"{other}:1 was not written by mosso generate"),
    ):
        result = run("generate", source, target)
        assert result.exit_code == 1
        assert said in result.output


def test_generate_reads_lines_as_json_lines_has_them(run, url, tmp_path) -> None:
    """Separators that only Python takes for line ends stay inside their strings."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "a\u2028b\x85c", "max_tokens": 1}\r\n\r\n', encoding="utf-8", newline="")
    assert run("generate", source, target, "--model", url).exit_code == 0
    assert len(target.read_text(encoding="utf-8").split("\n")) == 2
    source.write_bytes(b'\xff\xfe{"prompt"')
    result = run("generate", source, target)
    assert result.exit_code == 1
    assert f"{source}:1: not JSON" in result.output


def test_generate_names_a_bad_line(run, tmp_path) -> None:
    source = tmp_path / "in.jsonl"
    for text, said in (
        ("not json", "not JSON"),
        ("[]", "JSON object"),
        ("{}", "neither"),
        ('{"url": "/v1/embeddings", "body": {"input": "x"}}', "/v1/embeddings"),
    ):
        source.write_text(text + "\n")
        result = run("generate", source, tmp_path / "out.jsonl")
        assert result.exit_code == 1
        assert f"{source}:1" in result.output
        assert said in result.output


def test_bench_ends_in_one_json_line(run, url) -> None:
    result = run("bench", "serve", url, "--users", 2, "--requests", 4, "--words", 4, "--output", 8)
    assert result.exit_code == 0
    found = json.loads(result.output.splitlines()[-1])
    assert found["failed"] == 0
    assert found["requests"] == 4


def test_bench_serve_says_what_its_own_engine_chose(run) -> None:
    result = run("bench", "serve", "demo", "--users", 1, "--requests", 1, "--output", 1)
    assert "KV cache: " in result.stderr
    assert "1 request to http://127.0.0.1:" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["failed"] == 0


def test_bench_engine_prints_its_floor(run, monkeypatch) -> None:
    # 60 tokens: on a busy machine the second request may reach the engine some steps after the first, and
    # what both got during a pause is read one after the other: no step seems to have had both.
    keep_engines_near(monkeypatch)
    result = run("bench", "engine", "demo", "--batch", "1,2", "--prompt", 16, "--output", 60)
    assert result.exit_code == 0
    rows = json.loads(result.output.splitlines()[-1])["decode"]
    assert [row["batch"] for row in rows] == [1, 2]
    assert all(row["floor"] > 0 and row["rate"] > 0 for row in rows)


def test_eval_reports_every_skill(run, tmp_path) -> None:
    result = run("eval", "demo", "--per-skill", 2, "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["skills"]) == 9
    assert report["well_formed"] <= 1
    assert "arithmetic" in result.output
