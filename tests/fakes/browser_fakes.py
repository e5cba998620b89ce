"""A web of a few pages."""

from __future__ import annotations

from mosso.tools.browser import BackendError, Document, Hit

SITE = "https://a.example/news"
NEWS = """<html><head><title>The
News</title><style>p {}</style></head><body><script>let a = "<p>no</p>";</script>
<h1>Head</h1><p>First &amp; last. <a href="/more#x">More</a> or <a href="https://b.example/">else<b>where</b></a>
<a href="#here"></a><a href="javascript:x()"></a></p><ul><li>one</ul></body></html>"""
PAGES = {
    SITE: Document(SITE, NEWS, is_html=True),
    "https://b.example/": Document("https://b.example/", "<p>B", is_html=True),
    "https://www.a.example/": Document("https://www.a.example/", "www", is_html=False),
    "https://a.example/plain": Document("https://a.example/plain", "just text", is_html=False),
    "https://a.example/away": Document("https://b.example/", "B", is_html=False),
}


class FakeBackend:
    async def search(self, query, count):
        hits = [Hit("News", SITE, "What is new."), Hit("Other", "https://b.example/", "Something.")]
        return hits[:count]

    async def fetch(self, url):
        if url not in PAGES:
            raise BackendError(f"{url} is not known.")
        return PAGES[url]
