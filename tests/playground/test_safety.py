"""Whatever a model or a tool says is text: it runs nothing, loads nothing, and leads nowhere unasked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hostile import CORPUS, JS
from playwright.sync_api import expect
from scripted_server import TOKENIZER, scripted

from mosso.api.responses_toolset import Tools
from mosso.harmony.conversation import ToolNamespace
from mosso.tools.tool import Outcome

LEFT_BEHIND = """() => {
  const bad = [];
  const kinds = 'script,iframe,object,embed,img,image,video,audio,source,link,meta,base,form,style'
    + ',foreignObject';
  for (const e of document.querySelectorAll('.turns *')) {
    if (e.matches(kinds) && !e.closest('.call form, form.call')) bad.push(e.outerHTML.slice(0, 200));
    for (const a of e.attributes) {
      if (/^on/i.test(a.name)) bad.push(a.name);
      if (/url\\(/i.test(a.value) && a.name === 'style') bad.push(a.value);
      const link = ['href', 'src', 'xlink:href', 'action', 'ping'].includes(a.name);
      if (link && !/^(https?:|mailto:)/.test(a.value)) bad.push(`${a.name}=${a.value}`);
    }
  }
  return {bad, pwned: window.pwned ?? null, url: location.href};
}"""


def question_of(request) -> int:
    """The number that the last question of a prompt is."""
    text = TOKENIZER.decode(list(request.prompt), control=True)
    return int(re.findall(r"<\|message\|>#(\d+)", text)[-1])


def check(tab) -> None:
    found = tab.page.evaluate(LEFT_BEHIND)
    assert found == {"bad": [], "pwned": None, "url": f"{tab.url}/"}


@pytest.mark.parametrize("part", range(4))
def test_hostile_answers(open_tab, part):
    def script(request) -> str:
        hostile = CORPUS[question_of(request)]
        return (
            f"<|channel|>analysis<|message|>{hostile}<|end|>"
            f"<|start|>assistant<|channel|>final<|message|>{hostile}<|return|>"
        )

    with scripted(script) as (url, _):
        tab = open_tab(url)
        tab.page.on("dialog", lambda dialog: tab.complaints.append(dialog.message))
        tab.page.get_by_role("switch", name="Token probabilities").click()
        for number in range(part, len(CORPUS), 4):
            tab.ask(f"#{number}")
            tab.answered()
            check(tab)
            tab.page.locator(".thinking summary").click()
            for view in ("Token probabilities", "Raw Harmony"):
                button = tab.page.get_by_role("button", name=view)
                if button.count():  # an answer without text has no tokens to show
                    button.press("Enter")  # a click might meet the card of a token beneath it
                    check(tab)
            tab.page.get_by_role("button", name="New conversation").click()


CALL = "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>{}<|call|>"


def results_of(request, sender: str) -> int:
    return TOKENIZER.decode(list(request.prompt), control=True).count(f"{sender} to=assistant")


def calling(sender: str, calls: list[str]) -> Callable[[Any], str]:
    """A model that makes these calls one after another, and then is done."""

    def script(request: Any) -> str:
        given = results_of(request, sender)
        return calls[given] if given < len(calls) else "<|channel|>final<|message|>Done.<|return|>"

    return script


def unquoted(text: str) -> str:
    """The argument of a call that the page shows, which lays its JSON out anew."""
    return json.loads(text)["city"]


@pytest.mark.parametrize("part", range(4))
def test_hostile_calls_and_results_by_hand(open_tab, part):
    hostile = CORPUS[part::4]
    calls = [CALL.format(json.dumps({"city": payload})) for payload in hostile]
    with scripted(calling("functions.get_weather", calls)) as (url, source):
        source.max_context = 1 << 20
        tab = open_tab(url)
        page = tab.page
        page.on("dialog", lambda dialog: tab.complaints.append(dialog.message))
        tab.settings("Tools")
        page.get_by_role("button", name="Add a function").click()
        page.get_by_label("Description").fill(f"<img src=x onerror={JS}>")
        tab.ask("Weather?")
        for number, payload in enumerate(hostile):
            call = page.get_by_role("group", name="Call of get_weather").nth(number)
            call.locator("textarea").first.fill(payload)
            assert unquoted(call.get_by_label("Arguments").text_content()) == payload
            call.get_by_role("button", name="Send the result").click()
            assert call.locator("pre[aria-label=Result]").text_content() == payload
            check(tab)
        expect(page.get_by_role("region", name="Answer")).to_contain_text("Done.")
        check(tab)


class Echo:
    """A python whose every result is what it was asked to run."""

    namespace = ToolNamespace("python", "Runs code.")

    def open(self) -> Echo:
        return self

    async def run(self, recipient: str, text: str) -> Outcome:
        return Outcome(text)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("part", range(4))
def test_hostile_calls_and_results_of_a_built_in_tool(open_tab, part):
    hostile = CORPUS[part::4]
    calls = [f"<|channel|>analysis to=python code<|message|>{payload}<|call|>" for payload in hostile]
    with scripted(calling("python", calls), tools=Tools(python=Echo())) as (url, source):
        source.max_context = 1 << 20
        tab = open_tab(url)
        page = tab.page
        page.on("dialog", lambda dialog: tab.complaints.append(dialog.message))
        tab.settings("Tools")
        page.get_by_role("checkbox", name="python").check()
        tab.ask("Run them")
        tab.answered()
        for shown in ("Arguments", "Result"):
            assert page.locator(f"pre[aria-label={shown}]").all_text_contents() == list(hostile)
        check(tab)


def test_a_hostile_title_and_question(say, open_tab):
    tab = open_tab(say("fine"))
    tab.ask(f"<img src=x onerror={JS}>")
    tab.answered()
    check(tab)
    tab.page.get_by_role("button", name="Export").click()
    expect(tab.page.get_by_label("Exported conversation")).to_contain_text("<img src=x")
    check(tab)


def test_links_open_apart_and_tell_nothing(say, open_tab):
    tab = open_tab(say("[a link](https://example.test/page)"))
    tab.ask("Hi")
    tab.answered()
    link = tab.page.get_by_role("link", name="a link")
    expect(link).to_have_attribute("target", "_blank")
    expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
