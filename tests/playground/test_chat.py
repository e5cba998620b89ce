"""What a person does at the playground, before the demo."""

from __future__ import annotations

import json
import re

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
    assert tokens.count() > 3
    assert "42" in "".join(tokens.all_text_contents())
    tokens.first.hover()
    table = tab.page.get_by_role("table", name="Alternatives")
    expect(table).to_be_visible()
    assert table.get_by_role("row").count() == 5
    expect(table).to_contain_text("%")


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
    page.wait_for_timeout(1300)  # what is kept is written once a second
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


def test_the_engine_is_watched(demo, open_tab):
    tab = open_tab(demo)
    tab.page.get_by_role("button", name="Engine").click()
    expect(tab.page.get_by_test_id("running")).to_have_text("0")
    expect(tab.page.get_by_role("complementary", name="Engine")).to_contain_text("KV memory in use")
    expect(tab.page.get_by_role("img", name=re.compile("Tokens per second"))).to_be_visible()
