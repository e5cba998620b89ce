"""HTML → lines of text with numbered links."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin, urlsplit

MAX_CHARACTERS = 1 << 20
_SILENT = frozenset({"script", "style", "noscript", "template", "svg", "head", "iframe", "select", "button"})
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p",
    "pre", "section", "table", "tr", "ul",
})  # fmt: skip
_SPACE = re.compile(r"[^\S\n]+")


@dataclass(frozen=True, slots=True)
class Page:
    """`url` is empty for a page of results. `links[n]` is where 【n†…】 leads."""

    url: str
    title: str
    lines: list[str]
    links: list[str] = field(default_factory=list)


def page_of(url: str, text: str, *, is_html: bool, wrap: Callable[[str], list[str]]) -> Page:
    """`wrap` cuts text into lines."""
    text = text[:MAX_CHARACTERS]
    if not is_html:
        return Page(url, url, wrap(text) or [""])
    reader = _Reader(url)
    reader.feed(text)
    reader.close()
    title = " ".join("".join(reader.title).split()) or url
    body = re.sub(r"\n{3,}", "\n\n", _SPACE.sub(" ", "".join(reader.parts))).strip()
    return Page(url, title[:300], wrap(body) or [""], reader.links)


class _Reader(HTMLParser):
    """Total: HTMLParser takes any text, and unclosed elements close with the document."""

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.parts: list[str] = []
        self.links: list[str] = []
        self._url = url
        self._numbers: dict[str, int] = {}
        self._silent = 0
        self._in_title = False
        self._link: tuple[int, list[str]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title" and not self.title:
            self._in_title = True
        elif tag == "body":
            self._silent = 0
        elif tag in _SILENT:
            self._silent += 1
        elif tag in _BLOCKS:
            self._say("\n- " if tag == "li" else "\n")
        elif tag == "a":
            self._close_link()
            self._open_link(dict(attrs).get("href"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag == "a":
            self._close_link()
        elif tag in _BLOCKS:
            self._say("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._silent:
            self._say(data.replace("\n", " "))

    def close(self) -> None:
        super().close()
        self._close_link()

    def _say(self, text: str) -> None:
        text = text.replace("【", "[").replace("】", "]")  # a page cannot spell a link or a citation
        (self._link[1] if self._link is not None else self.parts).append(text)

    def _open_link(self, target: str | None) -> None:
        try:
            url = urldefrag(urljoin(self._url, target or "")).url
            plain = urlsplit(url).scheme in ("http", "https")
        except ValueError:
            return
        if target and plain and url != urldefrag(self._url).url and not self._silent:
            number = self._numbers.setdefault(url, len(self.links))
            if number == len(self.links):
                self.links.append(url)
            self._link = number, []

    def _close_link(self) -> None:
        if self._link is None:
            return
        (number, said), self._link = self._link, None
        text = " ".join("".join(said).split())
        if text:
            host, own = urlsplit(self.links[number]).hostname, urlsplit(self._url).hostname
            where = "" if host == own else f"†{host}"
            self.parts.append(f"【{number}†{text}{where}】")
