"""What a person does at the playground, before the demo."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from bisect import bisect_right
from contextlib import ExitStack

import pytest
from playwright.sync_api import expect

SUM = "What is 17 + 25?"


def test_a_conversation_with_its_thinking_and_its_speed(demo, open_tab):
    tab = open_tab(demo)
    tab.ask(SUM)
    tab.answered()
    answer = tab.page.get_by_role("region", name="Answer")
    expect(answer).to_contain_text("42")
    thinking = answer.locator("details")
    expect(thinking.locator("summary")).to_have_text(re.compile(r"Thought for \d+\.\d s"))
    expect(thinking.locator(".thought")).to_be_hidden()
    thinking.locator("summary").click()
    expect(thinking.locator(".thought")).to_be_visible()
    tab.picture("light")
    expect(tab.page.get_by_test_id("speed")).to_have_text(
        re.compile(r"first token \d+ ms\d+ tokens/s\d+ tokens \(\d+ thinking\)prompt \d+, \d+ cached")
    )
    tab.ask("What is 3 + 4?")
    tab.answered(2)
    expect(tab.page.get_by_test_id("speed").nth(1)).to_contain_text(
        re.compile(r"prompt \d+, [1-9]\d* cached")
    )
    kinds = [item["type"] for item in tab.bodies[1]["input"]]
    assert kinds == ["message", "reasoning", "message", "message"]


def test_settings_have_their_effect(demo, open_tab):
    tab = open_tab(demo)
    page = tab.page
    page.get_by_text("low", exact=True).click()
    page.get_by_label("System text").fill("You are Ada.")
    page.get_by_label("Developer text").fill("Answer briefly.")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Top p").press_sequentially("0.85")
    page.get_by_label("Top k").fill("5")
    page.get_by_label("Most tokens", exact=True).fill("64")
    page.get_by_label("Seed").fill("7")
    tab.ask(SUM)
    tab.answered()
    body = tab.bodies[0]
    assert body["reasoning"] == {"effort": "low"}
    assert body["chat_template_kwargs"] == {"model_identity": "You are Ada."}
    assert body["instructions"] == "Answer briefly."
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0, 0.85, 5)
    assert (body["max_output_tokens"], body["seed"]) == (64, 7)
    assert "tools" not in body
    assert "text" not in body


def test_a_tool_is_defined_called_and_answered_by_hand(demo, open_tab):
    tab = open_tab(demo)
    page = tab.page
    page.get_by_label("Temperature").fill("0")
    tab.settings("Tools")
    page.get_by_role("button", name="Add a function").click()
    expect(page.get_by_label("Name")).to_have_value("get_weather")
    tab.ask("What is the weather in Paris?")
    call = page.get_by_role("group", name="Call of get_weather")
    expect(call.get_by_label("Arguments")).to_contain_text('"city": "Paris"')
    call.get_by_label("Result").fill("rainy, 9 degrees")
    tab.picture("tools")
    call.get_by_role("button", name="Send the result").click()
    expect(page.get_by_role("region", name="Answer")).to_contain_text("rainy")
    assert [item["type"] for item in tab.bodies[1]["input"]][-1] == "function_call_output"
    tab.ask("Thank you.")
    tab.answered(2)
    assert len(tab.bodies) == 3


def test_a_call_that_waits_is_in_sight(demo, open_tab):
    tab = open_tab(demo, viewport={"width": 1280, "height": 600})
    tab.settings("Tools")
    tab.page.get_by_role("button", name="Add a function").click()
    for city in ("Paris", "Rome", "Oslo"):
        tab.ask(f"What is the weather in {city}?")
        expect(tab.page.get_by_role("button", name="Send the result").last).to_be_in_viewport(ratio=1)


def test_the_parameters_of_a_tool_must_be_json(demo, open_tab):
    tab = open_tab(demo)
    tab.settings("Tools")
    tab.page.get_by_role("button", name="Add a function").click()
    tab.page.get_by_label("Parameters (JSON schema)").fill("{")
    tab.ask("Hi")
    expect(tab.page.get_by_role("alert")).to_contain_text("The parameters of get_weather is not JSON")
    assert tab.bodies == []


def test_an_answer_of_a_schema_is_validated(demo, open_tab):
    tab = open_tab(demo)
    tab.settings("Format")
    tab.switch("Answer as JSON of a schema")
    tab.ask("Extract the person: Ada is 36 years old.")
    tab.answered()
    expect(tab.page.get_by_test_id("validity")).to_contain_text("Valid")
    tab.page.get_by_label("JSON schema", exact=True).fill('{"type": "object", "required": ["height"]}')
    expect(tab.page.get_by_test_id("validity")).to_contain_text("Not of the schema")


def test_tokens_are_coloured_and_tell_their_alternatives(demo, open_tab):
    tab = open_tab(demo)
    tab.switch("Token probabilities")
    tab.ask(SUM)
    tab.answered()
    tab.page.get_by_role("button", name="Token probabilities").click()
    tokens = tab.page.locator(".tokens .token")
    expect(tokens.nth(3)).to_be_visible()
    assert "42" in "".join(tokens.all_text_contents())
    for token in tokens.all():
        probability = float(token.get_attribute("aria-label").rpartition(": ")[2].removesuffix(" %"))
        assert token.get_attribute("class") in {f"token p{shade}" for shade in shades(probability)}
    tokens.first.hover()
    table = tab.page.get_by_role("table", name="Alternatives")
    expect(table).to_be_visible()
    expect(table.get_by_role("row")).to_have_count(5)
    expect(table).to_contain_text("%")


def shades(percent: float) -> set[int]:
    """The colour of a probability, and its neighbour where rounding has hidden the border."""
    return {bisect_right((10, 30, 60, 90), percent + rounded) for rounded in (-0.05, 0.05)}


def test_two_settings_side_by_side(demo, open_tab):
    tab = open_tab(demo)
    page = tab.page
    tab.switch("Compare")
    page.get_by_text("Settings B").click()
    page.get_by_text("high", exact=True).click()
    tab.ask(SUM)
    tab.answered(2)
    expect(page.get_by_role("region", name="Answer A")).to_contain_text("42")
    expect(page.get_by_role("region", name="Answer B")).to_contain_text("42")
    tab.picture("compare")
    assert {body["reasoning"]["effort"] for body in tab.bodies} == {"medium", "high"}
    tab.ask("What is 3 + 4?")
    tab.answered(4)
    inputs = [json.dumps(body["input"]) for body in tab.bodies[2:]]
    assert inputs[0] != inputs[1], "each side goes on from its own answers"


def test_an_earlier_question_is_edited_and_sent_again(demo, open_tab):
    tab = open_tab(demo)
    tab.ask(SUM)
    tab.answered()
    tab.ask("What is 3 + 4?")
    tab.answered(2)
    tab.page.get_by_label("Edit the question").first.click()
    tab.page.get_by_role("textbox", name="Edit the question").fill("What is 5 + 6?")
    tab.page.get_by_role("button", name="Send again").click()
    tab.answered(1)
    expect(tab.page.locator(".question")).to_have_text(["What is 5 + 6?"])
    assert [item["content"] for item in tab.bodies[2]["input"]] == ["What is 5 + 6?"]


def test_conversations_are_kept_and_exported(demo, open_tab):
    tab = open_tab(demo)
    page = tab.page
    tab.ask(SUM)
    tab.answered()
    tab.kept(SUM)
    page.reload()
    expect(page.locator(".question")).to_have_text([SUM])
    page.get_by_role("button", name="Export").click()
    source = page.get_by_label("Exported conversation")
    expect(source).to_contain_text("curl http://127.0.0.1")
    page.get_by_text("Python", exact=True).click()
    expect(source).to_contain_text("client.responses.create(")
    compile(source.inner_text(), "exported", "exec")
    page.get_by_text("JSON", exact=True).click()
    assert json.loads(source.inner_text())["turns"][0]["question"] == SUM
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".question")).to_have_count(0)
    page.get_by_role("button", name=SUM, exact=True).click()
    expect(page.locator(".question")).to_have_count(1)
    page.get_by_role("button", name=f"Delete {SUM}").click()
    expect(page.locator(".question")).to_have_count(0)


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_what_is_exported_runs_and_is_answered(demo, open_tab, language, monkeypatch):
    tab = open_tab(demo)
    tab.page.get_by_label("Temperature").fill("0")
    tab.page.get_by_label("Top k").fill("5")  # not of the SDK's signature
    tab.page.get_by_label("Developer text").fill('It\'s "brief" and costs $5.')
    tab.ask(SUM)
    tab.answered()
    tab.page.get_by_role("button", name="Export").click()
    tab.page.get_by_text(language, exact=True).click()
    source = tab.page.get_by_label("Exported conversation").inner_text()
    monkeypatch.setenv("MOSSO_API_KEY", "none")
    program = ["bash", "-euc"] if language == "curl" else [sys.executable, "-c"]
    done = subprocess.run([*program, source], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    said = (
        done.stdout if language == "Python" else json.loads(done.stdout)["output"][-1]["content"][0]["text"]
    )
    assert "42" in said


BODY = b'{"prompt": "%b", "min_tokens": 3000, "max_tokens": 3000, "stream": true}' % (b"Hello " * 500)
LONG = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def test_the_engine_is_watched(gate, serve, open_tab):
    url = serve("--max-rows", "1", "--kv-memory", "64")
    gate.slow_steps()  # a request lasts until it is hung up on
    tab = open_tab(url)
    tab.page.get_by_role("button", name="Engine").click()

    def shown(name: str):
        return tab.page.locator(f"dt:text-is('{name}') + dd")

    for name, value in {"Running": "0", "Waiting": "0", "KV memory in use": "0.0 %"}.items():
        expect(shown(name)).to_have_text(value)
    expect(shown("Generating")).to_have_text("0 tokens/s")
    step = shown("Last step").inner_text()
    with ExitStack() as streams:  # of two, one waits for the other, and has no answer as long
        for _ in range(2):
            asked = streams.enter_context(socket.create_connection(url.removeprefix("http://").split(":")))
            asked.sendall(LONG)
        expect(shown("Running")).to_have_text("1")
        expect(shown("Waiting")).to_have_text("1")
        expect(shown("KV memory in use")).to_have_text(re.compile(r"^([1-9]\d*\.\d|0\.[1-9]) %"))
        expect(shown("Last step")).to_have_text(re.compile(r"^\d+\.\d ms"))
        expect(shown("Last step")).not_to_have_text(step)
        expect(shown("Generating")).to_have_text(re.compile(r"^[1-9]\d* tokens/s"))
    for name in ("Running", "Waiting"):
        expect(shown(name)).to_have_text("0")
    expect(tab.page.get_by_role("img", name=re.compile("Tokens per second"))).to_be_visible()


@pytest.fixture
def thinking(gate, serve, open_tab):
    """A tab whose question is thought about for half a thousand slow tokens."""
    tab = open_tab(serve())
    gate.slow_steps()
    tab.page.get_by_label("Temperature").fill("0")
    tab.page.get_by_text("high", exact=True).click()
    tab.ask("What is 473 * 862?")
    return tab


def test_the_thinking_is_ended_early(thinking, gate):
    tab = thinking
    with tab.page.expect_response("**/end_thinking"):
        tab.press("Answer now")
    gate.open()
    tab.answered()
    expect(tab.page.locator(".markdown")).not_to_be_empty()
    speed = tab.page.get_by_test_id("speed").inner_text()
    thought = int(re.findall(r"\((\d+) thinking\)", speed)[0])
    assert 0 < thought < 500
    expect(tab.page.locator(".thinking summary")).to_contain_text("Thought for")
    assert "equal." not in tab.page.locator(".thought").text_content(), "its last word, where nobody ends it"


def test_an_answer_is_stopped(thinking, gate):
    tab = thinking
    expect(tab.page.locator(".thought")).to_contain_text("wants a product")
    tab.press("Stop")
    expect(tab.page.get_by_role("region", name="Answer")).to_contain_text("Stopped.")
    expect(tab.page.locator(".markdown")).to_have_count(0)
    tab.page.get_by_role("button", name="Engine").click()
    expect(tab.page.get_by_test_id("running")).to_have_text("0")
    gate.open()
    tab.ask(SUM)
    tab.answered()
    expect(tab.page.get_by_role("region", name="Answer").nth(1)).to_contain_text("42")


def test_the_raw_tokens(demo, open_tab):
    tab = open_tab(demo)
    tab.page.get_by_label("Temperature").fill("0")
    tab.ask(SUM)
    tab.answered()
    tab.page.get_by_role("button", name="Raw Harmony").click()
    prompt, output = (tab.page.get_by_role("region", name=f"{of} tokens") for of in ("Prompt", "Output"))
    expect(prompt).to_contain_text(f"<|start|>user<|message|>{SUM}<|end|><|start|>assistant")
    expect(output).to_have_text(
        re.compile(
            r"^<\|channel\|>analysis<\|message\|>.*<\|end\|>"
            r"<\|start\|>assistant<\|channel\|>final<\|message\|>.*42.*<\|return\|>$",
            re.DOTALL,
        )
    )


def test_a_key_of_a_key_file_is_asked_for(serve, open_tab, tmp_path):
    keys = tmp_path / "keys.toml"
    made = subprocess.run(
        [sys.executable, "-m", "mosso.cli", "keys", "new", str(keys), "ann"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    tab = open_tab(serve("--api-keys", str(keys)))
    expect(tab.page.get_by_role("alert")).to_contain_text("API key")
    tab.page.get_by_label("API key").fill("wrong")
    expect(tab.page.get_by_role("alert")).to_contain_text("API key")
    tab.page.get_by_label("API key").fill(made.stdout.strip())
    expect(tab.page.get_by_role("alert")).to_have_count(0)
    tab.ask(SUM)
    tab.answered()
    expect(tab.page.get_by_role("region", name="Answer")).to_contain_text("42")
    tab.complaints.clear()  # the console tells the 401s by itself
