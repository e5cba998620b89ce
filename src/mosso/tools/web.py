"""The browser's backend over HTTP: a SearXNG server to search with, and pages fetched from the web.

Whoever may send requests decides what is fetched, and what a page says decides what is fetched next. So only
addresses that everybody on the internet can reach are connected to (never this machine's or its network's),
checked where the connection is made, on every redirect too; and time and size are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from mosso.tools.browser import BackendError, Document, Hit

SECONDS = 20.0  # for a search, or for a page with its redirects
MAX_BYTES = 4 << 20
MAX_REDIRECTS = 5
PORTS = (80, 443)
AGENT = "mosso (browser tool)"


class WebBackend:
    """`search_url`: a SearXNG server's address, which the operator chose and may be anywhere.

    `allow_private`: pages may come from any address and port; for networks whose own pages are wanted.
    """

    def __init__(self, search_url: str, *, allow_private: bool = False) -> None:
        self._search_url = search_url.rstrip("/")
        self._allow_private = allow_private
        self._http = httpx.AsyncClient(
            timeout=SECONDS, headers={"User-Agent": AGENT}, follow_redirects=False, trust_env=False
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def search(self, query: str, count: int) -> Sequence[Hit]:
        try:
            async with asyncio.timeout(SECONDS):
                url = f"{self._search_url}/search"
                answer = await self._read(
                    self._http.build_request("GET", url, params={"q": query, "format": "json"})
                )
            results = answer.json()["results"]
            return [_hit(result) for result in results[:count]]
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
            raise BackendError("the search engine does not answer as it should.") from None

    async def fetch(self, url: str) -> Document:
        try:
            async with asyncio.timeout(SECONDS):
                return await self._fetched(url)
        except TimeoutError:
            raise BackendError(f"{url[:200]} gave no answer in {SECONDS:.0f} s.") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise BackendError(f"{url[:200]} cannot be fetched: {str(error)[:200]}.") from None

    async def _fetched(self, url: str) -> Document:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._read(await self._request(url))
            if answer.is_redirect and "location" in answer.headers:
                url = urljoin(url, answer.headers["location"])
                continue
            if answer.is_error:
                raise BackendError(f"{url[:200]} answers {answer.status_code}.")
            return _document(url, answer)
        raise BackendError(f"{url[:200]} leads in circles.")

    async def _request(self, url: str) -> httpx.Request:
        """A request to an address that was checked: the name is not asked for again when it connects."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise BackendError(f"{url[:200]} is not an address of a web page.")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if port not in PORTS and not self._allow_private:
            raise BackendError(f"{url[:200]}: only the web's own ports are opened.")
        address = await self._address(parts.hostname, port)
        asked = httpx.URL(url)
        host = asked.raw_host.decode("ascii") + (f":{parts.port}" if parts.port else "")
        return self._http.build_request(
            "GET",
            asked.copy_with(host=address),
            headers={"Host": host, "Accept": "text/html, text/plain;q=0.9, */*;q=0.1"},
            extensions={"sni_hostname": asked.raw_host.decode("ascii")},
        )

    async def _address(self, host: str, port: int) -> str:
        """An IP address of the host, all of which must be public ones."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise BackendError(f"{host[:200]} is not known.") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not self._allow_private and not all(map(is_public, addresses)):
            raise BackendError(f"{host[:200]} is not a public address.")
        return addresses[0]

    async def _read(self, request: httpx.Request) -> httpx.Response:
        """The answer with its body, as far as MAX_BYTES."""
        answer = await self._http.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise BackendError(f"the page is larger than {MAX_BYTES >> 20} MiB.")
        finally:
            await answer.aclose()
        headers = {name: value for name, value in answer.headers.items() if name != "content-encoding"}
        return httpx.Response(answer.status_code, headers=headers, content=bytes(body), request=request)


def is_public(address: str) -> bool:
    """Whether everybody on the internet could mean the same by it; also looks inside IPv6's wrappings."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _hit(result: Any) -> Hit:
    return Hit(str(result["title"])[:300], str(result["url"])[:2000], str(result.get("content") or "")[:1000])


def _document(url: str, answer: httpx.Response) -> Document:
    kind = answer.headers.get("content-type", "text/html").partition(";")[0].strip().lower()
    is_html = kind in ("text/html", "application/xhtml+xml")
    if not is_html and not kind.startswith("text/") and kind not in ("application/json", "application/xml"):
        raise BackendError(f"{url[:200]} is {kind}, which cannot be read as text.")
    return Document(url, answer.text, is_html)
