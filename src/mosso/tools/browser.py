"""The model's own `browser`: search, open and find, over a backend that finds and fetches.

What it shows is what gpt-oss was trained on: every result is a page with a number, its cursor; lines are
numbered; links are 【id†text】 or, to another site, 【id†text†domain】. The model cites what it read as
【cursor†L1-L2】, and `citations` finds the page and its URL for such a mark.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from mosso.harmony.conversation import FunctionTool, ToolNamespace
from mosso.tools.tool import Outcome, Session
from mosso.tools.web_page import Page, page_of

NAME = "browser"
WIDTH = 100  # characters of a line
SHOWN_LINES = 80  # of a page at once
AROUND = 4  # lines shown on both sides of what was found
MOST_FOUND = 30
MOST_RESULTS = 20
MOST_PAGES = 64  # that one response may have open
CITATION = re.compile(r"【(\d+)†L(\d+)(?:-L(\d+))?】")


class BackendError(Exception):
    """Nothing can be found or fetched; the text says why, for the model."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search."""

    title: str
    url: str
    summary: str


@dataclass(frozen=True, slots=True)
class Document:
    """What a URL gave: `url` after redirects, `text` as it came, HTML or plain."""

    url: str
    text: str
    is_html: bool


class Backend(Protocol):
    """Where pages come from. Methods raise BackendError, and are bounded in time and size."""

    async def search(self, query: str, count: int) -> Sequence[Hit]: ...

    async def fetch(self, url: str) -> Document: ...


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark in an answer: where it stands, and what it cites."""

    start: int
    end: int
    url: str
    title: str


class Browser:
    """See tool.Builtin."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def namespace(self) -> ToolNamespace:
        return NAMESPACE

    def open(self) -> BrowserSession:
        return BrowserSession(self._backend)


@dataclass(slots=True)
class BrowserSession(Session):
    """The pages of one response, by cursor. `domains`: only these and what is below them may be opened."""

    backend: Backend
    domains: Sequence[str] = ()
    pages: list[Page] = field(default_factory=list)

    async def run(self, recipient: str, text: str) -> Outcome:
        work = {"search": self._search, "open": self._open, "find": self._find}.get(
            recipient.rpartition(".")[2]
        )
        if work is None:
            return Outcome("The browser has search, open and find.", failed=True)
        try:
            given = json.loads(text or "{}")
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            return Outcome("The arguments must be a JSON object.", failed=True)
        try:
            return await work(given)
        except BackendError as error:
            return Outcome(f"Error: {error}", failed=True)

    async def close(self) -> None:
        """Nothing is open."""

    def citations(self, text: str) -> list[Citation]:
        """The marks in `text` that stand for a page of this session."""
        found = []
        for mark in CITATION.finditer(text):
            cursor = int(mark[1])
            page = self.pages[cursor] if cursor < len(self.pages) else None
            if page is not None and page.url:
                found.append(Citation(mark.start(), mark.end(), page.url, page.title))
        return found

    async def _search(self, given: dict[str, Any]) -> Outcome:
        query, count = given.get("query"), _whole(given.get("topn"), 10)
        if not isinstance(query, str) or not query.strip():
            raise BackendError("search needs a query.")
        asked = query + "".join(f" site:{domain}" for domain in self.domains[:1])
        hits = [hit for hit in await self.backend.search(asked, max(1, min(count, MOST_RESULTS)))
                if self._allowed(hit.url)]  # fmt: skip
        lines = []
        for number, hit in enumerate(hits):
            lines += _wrapped(f"【{number}†{hit.title}†{_domain(hit.url)}】 {hit.summary}")
        page = Page("", f"Search: {query}", lines or ["No results."], [hit.url for hit in hits])
        return Outcome(self._added(page, 0), sources=tuple(hit.url for hit in hits))

    async def _open(self, given: dict[str, Any]) -> Outcome:
        wanted, place, count = (
            given.get("id", -1),
            _whole(given.get("loc"), -1),
            _whole(given.get("num_lines"), -1),
        )
        if isinstance(wanted, str) and not wanted.isdigit():
            page = await self._fetched(wanted)
        elif (link := _whole(wanted, -1)) >= 0:
            links = self._page(given).links
            if link >= len(links):
                raise BackendError(f"there is no link {link} on this page.")
            page = await self._fetched(links[link])
        else:
            page = self._page(given)
        text = self._added(page, max(place, 0), count if count > 0 else SHOWN_LINES)
        return Outcome(text, url=page.url or None)

    async def _find(self, given: dict[str, Any]) -> Outcome:
        pattern, page = given.get("pattern"), self._page(given)
        if not isinstance(pattern, str) or not pattern:
            raise BackendError("find needs a pattern.")
        places = [n for n, line in enumerate(page.lines) if pattern.lower() in line.lower()][:MOST_FOUND]
        lines: list[str] = []
        for number, place in enumerate(places):
            lines.append(f"# 【{number}†match at L{place}】")
            lines += page.lines[max(0, place - 1) : place + AROUND]
        found = Page(page.url, f"Find: {pattern} in {page.title}", lines or ["No matches."], page.links)
        return Outcome(self._added(found, 0), url=page.url or None)

    def _page(self, given: dict[str, Any]) -> Page:
        cursor = _whole(given.get("cursor"), -1)
        if not self.pages:
            raise BackendError("no page is open yet.")
        if cursor >= len(self.pages):
            raise BackendError(f"there is no page {cursor}.")
        return self.pages[cursor]

    async def _fetched(self, url: str) -> Page:
        if not self._allowed(url):
            raise BackendError(f"{_domain(url)} is not among the allowed domains.")
        document = await self.backend.fetch(url)
        if not self._allowed(document.url):
            raise BackendError(f"{_domain(document.url)} is not among the allowed domains.")
        return page_of(document.url, document.text, is_html=document.is_html, wrap=_wrapped)

    def _allowed(self, url: str) -> bool:
        host = _domain(url)
        return not self.domains or any(host == name or host.endswith(f".{name}") for name in self.domains)

    def _added(self, page: Page, start: int, count: int = SHOWN_LINES) -> str:
        """The page as the model is shown it, from line `start` on; it has a cursor then."""
        if len(self.pages) >= MOST_PAGES:
            raise BackendError("too many pages are open; answer now.")
        cursor = len(self.pages)
        self.pages.append(page)
        last = len(page.lines)
        start = min(start, max(last - 1, 0))
        end = min(start + min(count, 4 * SHOWN_LINES), last)
        shown = "\n".join(f"L{number}: {page.lines[number]}" for number in range(start, end))
        where = f" ({page.url})" if page.url else ""
        viewed = f"**viewing lines [{start} - {end - 1}] of {last - 1}**"
        return f"[{cursor}] {page.title}{where}\n{viewed}\n\n{shown}"


def _whole(value: Any, default: int) -> int:
    """A number of the model's, which may have written 3.0 or "3"."""
    try:
        return int(float(value)) if value is not None and not isinstance(value, bool) else default
    except (TypeError, ValueError, OverflowError):
        return default


def _domain(url: str) -> str:
    try:
        return (urlsplit(url).hostname or url).removeprefix("www.")
    except ValueError:
        return url


def _wrapped(text: str) -> list[str]:
    lines: list[str] = []
    for line in text.splitlines():
        lines += textwrap.wrap(line, WIDTH, break_long_words=True, break_on_hyphens=False) or [""]
    return lines


def _numbers(*names: str) -> dict[str, Any]:
    return {name: {"type": "number", "default": -1} for name in names}


NAMESPACE = ToolNamespace(
    NAME,
    "Tool for browsing.\n"
    "The `cursor` appears in brackets before each browsing display: `[{cursor}]`.\n"
    "Cite information from the tool using the following format:\n"
    "`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.\n"
    "Do not quote more than 10 words directly from the tool output.\n"
    "sources=web (default: web)",
    (
        FunctionTool(
            "search",
            "Searches for information related to `query` and displays `topn` results.",
            {
                "type": "object",
                "properties": {
                    "query": {"type": "string"},
                    "topn": {"type": "number", "default": 10},
                    "source": {"type": "string"},
                },
                "required": ["query"],
            },
        ),
        FunctionTool(
            "open",
            "Opens the link `id` from the page indicated by `cursor` starting at line number `loc`, "
            "showing `num_lines` lines.\n"
            "Valid link ids are displayed with the formatting: `【{id}†.*】`.\n"
            "If `cursor` is not provided, the most recent page is implied.\n"
            "If `id` is a string, it is treated as a fully qualified URL associated with `source`.\n"
            "If `loc` is not provided, the viewport will be positioned at the beginning of the document or "
            "centered on the most relevant passage, if available.\n"
            "Use this function without `id` to scroll to a new location of an opened page.",
            {
                "type": "object",
                "properties": {
                    "id": {"type": ["number", "string"], "default": -1},
                    **_numbers("cursor", "loc", "num_lines"),
                    "view_source": {"type": "boolean", "default": False},
                    "source": {"type": "string"},
                },
            },
        ),
        FunctionTool(
            "find",
            "Finds exact matches of `pattern` in the current page, or the page given by `cursor`.",
            {
                "type": "object",
                "properties": {"pattern": {"type": "string"}, **_numbers("cursor")},
                "required": ["pattern"],
            },
        ),
    ),
)
"""As the model was trained with it: its tokens equal the official renderer's."""
