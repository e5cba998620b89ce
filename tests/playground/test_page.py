"""The page itself: markdown, colours, keyboard, narrow screens, keys, and people who do not see it."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect
from scripted_server import TOKENIZER, scripted

from mosso.api.responses_toolset import Tools
from mosso.harmony.conversation import ToolNamespace
from mosso.server.keys import FixedKeys, Key
from mosso.server.tenants import Tenants
from mosso.server.usage_store import UsageStore
from mosso.tools.tool import Outcome

ROOT = Path(__file__).parents[2]
RICH = """# Title

Some **bold** text, `code`, a [link](https://example.test), and mathematics: \\(a^2 + b^2 = c^2\\).

\\[ \\int_0^1 x^2 \\, dx = \\frac{1}{3} \\]

```python
def add(a: int, b: int) -> int:
    return a + b
```

| a | b |
|---|---|
| 1 | 2 |

- [x] done
"""


FADED = """() => Promise.allSettled(
  document.getAnimations()
    .filter(one => one.playState === "running" && one.effect?.getComputedTiming().endTime !== Infinity)
    .map(one => one.finished)
)"""


def axe(page) -> list[str]:
    """Serious breaches of accessibility that axe finds, each with its first element."""
    page.mouse.move(700, 400)
    page.wait_for_timeout(400)  # what fades in or out has not its colours yet, on a busy machine for longer
    page.evaluate(FADED)
    source = (ROOT / "web/node_modules/axe-core/axe.min.js").read_text()
    page.evaluate(source)
    found = page.evaluate("() => axe.run()")
    return [
        f"{breach['id']}: {breach['nodes'][0]['html'][:200]}"
        for breach in found["violations"]
        if breach["impact"] in ("serious", "critical")
    ]


needs_axe = pytest.mark.skipif(
    not (ROOT / "web/node_modules/axe-core").exists(), reason="npm ci in web/ brings axe"
)


def test_markdown_code_and_mathematics(say, open_tab):
    tab = open_tab(say(RICH))
    tab.ask("Show me")
    tab.answered()
    answer = tab.page.locator(".markdown")
    expect(answer.locator("h1")).to_have_text("Title")
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator(".katex")).to_have_count(2)
    expect(answer.locator("pre .hljs-keyword")).to_have_text(["def", "return"])
    expect(answer.locator("table td")).to_have_text(["1", "2"])
    expect(answer.get_by_role("checkbox")).to_be_checked()
    loaded = tab.page.evaluate("async () => (await document.fonts.load('16px KaTeX_Main')).length")
    assert loaded > 0


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_axe_finds_nothing_serious(say, open_tab, scheme, width):
    tab = open_tab(say(RICH), color_scheme=scheme, viewport={"width": width, "height": 800})
    page = tab.page
    assert page.locator("html").get_attribute("data-mantine-color-scheme") == scheme
    assert axe(page) == []
    tab.ask("Show me")
    tab.answered()
    page.locator(".thinking summary").click()
    assert axe(page) == []
    if width > 1000:
        if scheme == "dark":
            tab.picture("dark")
        for name in ("Tools", "Format"):
            tab.settings(name)
            if name == "Tools":
                page.get_by_role("button", name="Add a function").click()
            assert axe(page) == []
        page.get_by_role("button", name="Raw Harmony").click()
        page.get_by_role("button", name="Export").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert axe(page) == []
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Engine").click()
        page.get_by_test_id("running").wait_for()
        assert axe(page) == []
    else:
        tab.picture(f"narrow-{scheme}")
        for panel in ("Conversations", "Settings", "Engine"):
            page.get_by_role("button", name=panel, exact=True).click()
            assert axe(page) == []


def test_colours_may_be_changed_and_are_kept(say, open_tab):
    tab = open_tab(say("fine"), color_scheme="light")
    html = tab.page.locator("html")
    tab.page.get_by_role("button", name="Dark colours").click()
    expect(html).to_have_attribute("data-mantine-color-scheme", "dark")
    tab.page.reload()
    expect(html).to_have_attribute("data-mantine-color-scheme", "dark")


def test_a_narrow_screen_shows_one_thing_at_a_time(say, open_tab):
    tab = open_tab(say("fine"), viewport={"width": 390, "height": 800})
    page = tab.page
    expect(page.get_by_role("complementary")).to_have_count(0)
    expect(page.get_by_role("navigation")).to_have_count(0)
    tab.ask("Hi")
    tab.answered()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Developer text")).to_be_visible()
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_label("Developer text")).to_be_hidden()
    page.get_by_role("button", name="Hi", exact=True).click()
    expect(page.get_by_role("navigation")).to_have_count(0)
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0


@pytest.mark.parametrize("width", [320, 390])
def test_a_narrow_screen_has_its_switch_named_and_no_gap(say, open_tab, width):
    tab = open_tab(say("fine"), viewport={"width": width, "height": 700})
    expect(tab.page.get_by_text("Compare", exact=True)).to_be_in_viewport(ratio=1)
    expect(tab.page.get_by_role("button", name="Dark colours")).to_be_in_viewport(ratio=1)
    header, main = (tab.page.get_by_role(role).bounding_box() for role in ("banner", "main"))
    assert main["y"] == header["y"] + header["height"]


def test_a_server_that_is_gone_is_named(say, open_tab):
    tab = open_tab(say("fine"))
    tab.page.route("**/v1/models", lambda route: route.abort())
    tab.page.reload()
    expect(tab.page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    tab.complaints.clear()  # the browser's own of that request


def test_everything_is_reached_with_the_keyboard(say, open_tab):
    tab = open_tab(say("fine"))
    page = tab.page
    expect(tab.message).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    tab.answered()
    expect(page.locator(".question")).to_have_text("one\ntwo")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(e => e.getAttribute('aria-label') || e.textContent.trim())(document.activeElement)"
            )
        )
    wanted = {
        "Conversations",
        "Engine",
        "Settings",
        "New conversation",
        "Edit the question",
        "Copy the answer",
    }
    assert wanted <= reached


def test_probabilities_have_their_colours(open_tab):
    colours = {
        0.05: "rgb(255, 201, 201)",
        0.2: "rgb(255, 216, 168)",
        0.5: "rgb(255, 243, 191)",
        0.8: "rgb(230, 252, 220)",
        0.95: "rgba(0, 0, 0, 0)",
    }
    with scripted("<|channel|>final<|message|>a<|return|>") as (url, source):
        tab = open_tab(url, color_scheme="light")
        tab.switch("Token probabilities")
        for count, probability in enumerate(colours, 1):
            source.logprob = math.log(probability)
            tab.ask("Hi")
            tab.answered(count)
            tab.page.get_by_role("button", name="Token probabilities").last.click()
        shown = tab.page.locator(".tokens .token")
        expect(shown).to_have_count(len(colours))
        backgrounds = shown.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
        assert backgrounds == list(colours.values())


def test_an_answer_is_stopped(open_tab):
    text = "<|channel|>final<|message|>" + "word " * 700 + "<|return|>"
    with scripted(text) as (url, source):
        source.batch = 1

        async def slowly(request) -> None:
            await asyncio.sleep(0.02)

        source.gate = slowly
        tab = open_tab(url)
        tab.ask("Talk")
        answer = tab.page.get_by_role("region", name="Answer")
        expect(answer).to_contain_text("word word")
        tab.press("Stop")
        expect(answer).to_contain_text("Stopped.")
        tab.until(lambda: len(source.aborted) == 1)
        tab.ask("Again")
        expect(tab.page.get_by_role("button", name="Stop")).to_be_visible()
        assert tab.bodies[1]["input"][1]["content"][0]["text"].startswith("word word")
        tab.press("Stop")


def test_enter_before_the_server_has_named_its_model_is_kept(open_tab):
    with scripted("<|channel|>final<|message|>Here I am.<|return|>") as (url, _):
        tab = open_tab(url)
        held: list[Route] = []
        tab.page.route("**/v1/models", lambda route: held.append(route))
        tab.page.reload()
        tab.until(lambda: held)
        tab.ask("Hello")
        expect(tab.page.get_by_role("button", name="Send")).to_be_disabled()
        expect(tab.message).to_have_value("Hello")
        held[0].continue_()
        tab.answered()
        expect(tab.page.get_by_role("region", name="Answer")).to_contain_text("Here I am.")
        expect(tab.message).to_have_value("")


def test_thinking_is_shown_live(open_tab):
    thinking = "<|channel|>analysis<|message|>" + "hmm " * 100 + "<|end|>"
    answer = "<|start|>assistant<|channel|>final<|message|>done<|return|>"
    with scripted(thinking + answer) as (url, source):
        events, seen = itertools.count(), threading.Event()

        async def slowly(request) -> None:
            await asyncio.sleep(0.03)
            while next(events) > 30 and not seen.is_set():
                await asyncio.sleep(0.03)  # it thinks until the page has shown all of this

        source.gate = slowly
        tab = open_tab(url)
        tab.ask("Think")
        summary = tab.page.locator(".thinking summary")
        expect(summary).to_contain_text(re.compile(r"Thinking for [1-9]\d*\.\d s|Thinking for 0\.[3-9] s"))
        expect(tab.page.locator(".thought")).to_be_visible()
        tab.press("Answer now")
        expect(tab.page.get_by_role("button", name="Answer now")).to_be_disabled()
        tab.until(lambda: len(source.thought) == 1)
        seen.set()
        tab.answered()
        expect(summary).to_contain_text("Thought for")


def test_a_call_is_shown_while_it_is_written(open_tab):
    call = "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>"
    with scripted(call + '{"city": "Par' + "i" * 300 + 's"}<|call|>') as (url, source):
        source.batch = 1
        events, seen = itertools.count(), threading.Event()

        async def slowly(request) -> None:
            await asyncio.sleep(0.01)
            while next(events) > 100 and not seen.is_set():
                await asyncio.sleep(0.01)  # the call is written until the page has shown all of this

        source.gate = slowly
        tab = open_tab(url)
        tab.settings("Tools")
        tab.page.get_by_role("button", name="Add a function").click()
        tab.ask("Weather?")
        shown = tab.page.get_by_role("group", name="Call of get_weather")
        expect(shown).to_contain_text("being written")
        expect(shown.get_by_label("Arguments")).to_contain_text('{"city": "Parii')
        expect(shown.get_by_label("Result")).to_have_count(0)
        seen.set()
        expect(shown).to_contain_text("waits for a result")
        expect(shown.get_by_label("Arguments")).to_contain_text('is"')


class Calculator:
    """A python that knows one result."""

    namespace = ToolNamespace("python", "Runs code.")

    def open(self) -> Calculator:
        return self

    async def run(self, recipient: str, text: str) -> Outcome:
        return Outcome("<b>42</b>")

    async def close(self) -> None:
        pass


def test_a_built_in_tool_answers_by_itself(open_tab):
    def script(request) -> str:
        if "<b>42" in TOKENIZER.decode(list(request.prompt), control=True):
            return "<|channel|>final<|message|>It is 42.<|return|>"
        return "<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"

    with scripted(script, tools=Tools(python=Calculator())) as (url, _):
        tab = open_tab(url)
        tab.settings("Tools")
        tab.page.get_by_role("checkbox", name="python").check()
        tab.ask("What is 6 times 7?")
        tab.answered()
        call = tab.page.get_by_role("group", name="Call of code_interpreter")
        expect(call.get_by_label("Arguments")).to_have_text("print(6 * 7)")
        expect(call.get_by_label("Result")).to_have_text("<b>42</b>")
        expect(tab.page.get_by_role("region", name="Answer")).to_contain_text("It is 42.")
        assert len(tab.bodies) == 1
        tab.ask("Sure?")  # what the tool was asked and said goes along
        tab.answered(2)
        assert [item["type"] for item in tab.bodies[1]["input"]][1] == "code_interpreter_call"


def test_an_api_key_is_asked_for_and_kept(open_tab):
    usage = UsageStore()
    tenants = Tenants(FixedKeys(Key("ann", (sha256(b"secret").digest(),))), usage)
    with scripted("<|channel|>final<|message|>fine<|return|>", tenants=tenants) as (url, _):
        tab = open_tab(url)
        expect(tab.page.get_by_role("alert")).to_contain_text("API key")
        tab.page.get_by_label("API key").fill("secret")
        expect(tab.page.get_by_role("alert")).to_have_count(0)
        tab.ask("Hi")
        tab.answered()
        tab.kept('"apiKey":"secret"', '"question":"Hi"')
        tab.complaints.clear()  # the console tells the 401s by itself
        tab.page.reload()
        tab.ask("Again")
        tab.answered(2)
        tab.page.get_by_role("button", name="Engine").click()
        expect(tab.page.get_by_test_id("running")).to_be_visible()
    usage.close()


def test_what_is_told_of_an_earlier_key_counts_no_more(open_tab):
    with scripted("<|channel|>final<|message|>fine<|return|>") as (url, _):
        tab = open_tab(url)
        held: dict[str | None, Route] = {}
        tab.page.route(
            "**/v1/models", lambda route: held.update({route.request.headers.get("authorization"): route})
        )
        tab.page.reload()
        tab.until(lambda: None in held)
        tab.page.get_by_label("API key").fill("secret")
        tab.until(lambda: "Bearer secret" in held)
        held["Bearer secret"].continue_()
        tab.ask("Hi")
        tab.answered()
        held[None].fulfill(status=401)
        tab.until(lambda: tab.complaints)  # the console tells a 401 by itself
        tab.complaints.clear()
        tab.ask("Again")
        tab.answered(2)
        expect(tab.page.get_by_role("alert")).to_have_count(0)


def test_errors_are_told(open_tab):
    with scripted("<|channel|>final<|message|>x<|return|>") as (url, _):
        tab = open_tab(url)
        tab.page.get_by_label("Most tokens", exact=True).fill("1")
        tab.ask("x" * 5000)
        expect(tab.page.get_by_role("alert")).to_contain_text("maximum context length")
        tab.complaints.clear()  # the console tells a 400 by itself


def test_the_raw_tokens(say, open_tab):
    tab = open_tab(say("the answer"))
    tab.ask("Hi")
    tab.answered()
    tab.page.get_by_role("button", name="Raw Harmony").click()
    output = tab.page.get_by_role("region", name="Output tokens")
    expect(output).to_have_text(
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>the answer<|return|>"
    )
    expect(tab.page.get_by_role("region", name="Prompt tokens")).to_contain_text(
        "<|start|>user<|message|>Hi<|end|><|start|>assistant"
    )


@pytest.mark.measure
def test_measure_first_paint_and_long_answers(open_tab, capsys):
    """Not run by default: prints what docs/performance.md tells. `pytest -m measure tests/playground`."""
    said = (RICH * 40)[:8000]  # what gpt-oss says in 2,000 tokens
    with scripted(f"<|channel|>final<|message|>{said}<|return|>") as (url, source):
        source.batch, source.max_context = 4, 20_000

        async def slowly(request) -> None:
            await asyncio.sleep(0.004)

        source.gate = slowly
        tab = open_tab(url)
        paint = tab.page.wait_for_function(
            "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        ).json_value()
        tab.page.evaluate(
            "() => { window.long = []; new PerformanceObserver(list => window.long.push("
            "...list.getEntries().map(e => e.duration))).observe({type: 'longtask'}); }"
        )
        tab.ask("Talk")
        expect(tab.page.get_by_test_id("speed")).to_be_visible(timeout=120_000)
        tab.page.wait_for_timeout(500)
        long = tab.page.evaluate("() => window.long")
        with capsys.disabled():
            print(f"\nfirst contentful paint {paint:.0f} ms; tasks over 50 ms: {sorted(map(round, long))}")
            print(tab.page.get_by_test_id("speed").inner_text())
