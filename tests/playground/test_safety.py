"""Whatever a model or a tool says is text: it runs nothing, loads nothing, and leads nowhere unasked."""

from __future__ import annotations

import re

import pytest
from hostile import CORPUS, JS
from playwright.sync_api import expect
from scripted_server import TOKENIZER, scripted

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


def test_hostile_calls_and_results(open_tab):
    with scripted(
        lambda request: (
            "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>"
            f'{{"city": "<img src=x onerror={JS}>"}}<|call|>'
            if "#0" in TOKENIZER.decode(list(request.prompt))[-80:]
            else f"<|channel|>final<|message|><img src=x onerror={JS}><|return|>"
        )
    ) as (url, _):
        tab = open_tab(url)
        page = tab.page
        tab.settings("Tools")
        page.get_by_role("button", name="Add a function").click()
        page.get_by_label("Description").fill(f"<img src=x onerror={JS}>")
        tab.ask("#0")
        call = page.get_by_role("group", name="Call of get_weather")
        call.get_by_label("Result").fill(f"<svg onload={JS}><script>{JS}</script>")
        check(tab)
        call.get_by_role("button", name="Send the result").click()
        expect(page.get_by_role("region", name="Answer")).to_contain_text("<img src=x")
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
