"""The browser tool: golden namespace, pages as the model knows them, and what may be fetched."""

import json

import pytest
from browser_fakes import SITE, FakeBackend
from hypothesis import given
from hypothesis import strategies as st

from mosso.tools.browser import NAMESPACE, Browser, _wrapped
from mosso.tools.web_page import page_of

openai_harmony = pytest.importorskip("openai_harmony")


@pytest.fixture
def session():
    return Browser(FakeBackend()).open()


async def call(session, function, **arguments):
    return await session.run(f"browser.{function}", json.dumps(arguments))


def test_the_namespace_is_the_one_the_model_knows():
    known = openai_harmony.ToolNamespaceConfig.browser()
    assert NAMESPACE.description == known.description
    assert [(t.name, t.description, t.parameters) for t in NAMESPACE.tools] == [
        (t.name, t.description, t.parameters) for t in known.tools
    ]


async def test_search_open_find(session):
    found = await call(session, "search", query="news")
    assert found.text == (
        "[0] Search: news\n**viewing lines [0 - 1] of 1**\n\n"
        "L0: 【0†News†a.example】 What is new.\nL1: 【1†Other†b.example】 Something."
    )
    assert found.sources == ("https://a.example/news", "https://b.example/")
    opened = await call(session, "open", id=0)
    assert opened.url == "https://a.example/news"
    assert opened.text == (
        "[1] The News (https://a.example/news)\n**viewing lines [0 - 4] of 4**\n\n"
        "L0: Head\nL1: \nL2: First & last. 【0†More】 or 【1†elsewhere†b.example】\nL3: \nL4: - one"
    )
    again = await call(session, "find", pattern="first")
    assert "【0†match at L2】" in again.text
    linked = await call(session, "open", cursor=1, id=1.0)
    assert linked.url == "https://b.example/"
    scrolled = await call(session, "open", cursor=1, loc=4, num_lines=1)
    assert scrolled.text.endswith("**viewing lines [4 - 4] of 4**\n\nL4: - one")
    by_url = await call(session, "open", id="https://a.example/plain")
    assert by_url.text.endswith("L0: just text")
    marks = session.citations("As said 【1†L2】 and 【1†L2-L3】, not 【0†L0】 nor 【9†L1】.")
    assert [(mark.start, mark.url, mark.title) for mark in marks] == [
        (8, "https://a.example/news", "The News"),
        (19, "https://a.example/news", "The News"),
    ]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("search", {}),
        ("search", {"query": " "}),
        ("find", {"pattern": "x"}),
        ("open", {"id": 0}),
        ("open", {"id": "https://nowhere.example/"}),
        ("open", {"id": {"a": 1}}),
        ("leave", {}),
    ],
)
async def test_mistakes_are_told_to_the_model(session, function, arguments):
    assert (await call(session, function, **arguments)).failed
    assert (await session.run("browser.search", "[1]")).failed
    assert (await session.run("browser.search", "{")).failed


async def test_only_allowed_domains(session):
    session.domains = ("a.example",)
    found = await call(session, "search", query="news")
    assert found.sources == ("https://a.example/news",)
    assert (await call(session, "open", id="https://b.example/")).failed
    assert not (await call(session, "open", id="https://www.a.example/")).failed
    assert "not among the allowed" in (await call(session, "open", id="https://a.example/away")).text


async def test_pages_do_not_pile_up_for_ever(session):
    outcomes = [await call(session, "search", query="news") for _ in range(70)]
    assert not outcomes[63].failed
    assert "too many pages" in outcomes[64].text


@given(st.text(alphabet=st.sampled_from("<>/ab 【】†&#;\"'=!-\n"), max_size=200))
def test_any_text_is_a_page(text):
    page = page_of("https://a.example/", f"<title>t</title>{text}", is_html=True, wrap=_wrapped)
    assert page.lines
    assert all(len(line) <= 100 for line in page.lines)


def test_a_page_cannot_spell_a_citation():
    page = page_of(SITE, "<p>【0†L1】 <a href='/x'>【1†fake】</a>", is_html=True, wrap=_wrapped)
    assert page.lines == ["[0†L1] 【0†[1†fake]】"]
    assert page.links == ["https://a.example/x"]
