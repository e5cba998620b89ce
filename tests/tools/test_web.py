"""The browser's HTTP backend, against real servers of this machine."""

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

import mosso.tools.web as room
from mosso.tools.browser import BackendError
from mosso.tools.web import WebBackend, is_public

INSIDE = [
    "127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "0.0.0.0", "[::ffff:127.0.0.1]", "10.0.0.1",
    "192.168.1.1", "169.254.169.254", "[fd00::1]", "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "100.64.0.1", "224.0.0.1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _time_for_a_busy_machine(monkeypatch):
    monkeypatch.setattr(room, "SECONDS", 120.0)


@asynccontextmanager
async def site(answer):
    """`answer(path)` → (status, headers, body); the server's URL, and the (path, host) of every request."""
    asked = []

    async def handle(reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            asked.append((path, next(x[6:] for x in head.split("\r\n") if x.lower().startswith("host: "))))
            status, headers, body = answer(path)
            lines = [f"HTTP/1.1 {status} X", "Connection: close", *(f"{k}: {v}" for k, v in headers.items())]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@asynccontextmanager
async def backend(url="http://127.0.0.1:9", **options):
    made = WebBackend(url, **options)
    try:
        yield made
    finally:
        await made.close()


async def test_search():
    results = [{"title": f"T{n}", "url": f"https://x.example/{n}", "content": None} for n in range(9)]
    body = json.dumps({"results": results}).encode()
    async with site(lambda path: (200, {}, body)) as (url, asked), backend(f"{url}/") as web:
        hits = await web.search("a b&c", 3)
        assert [(hit.title, hit.url, hit.summary) for hit in hits][2] == ("T2", "https://x.example/2", "")
        assert len(hits) == 3
        assert parse_qs(urlsplit(asked[0][0]).query) == {"q": ["a b&c"], "format": ["json"]}
    for wrong in (b"", b"[]", b'{"results": [1]}', b'{"results": [{}]}'):
        async with site(lambda path, wrong=wrong: (200, {}, wrong)) as (url, _), backend(url) as web:
            with pytest.raises(BackendError, match="search engine"):
                await web.search("a", 3)
    async with backend() as web:
        with pytest.raises(BackendError, match="search engine"):
            await web.search("a", 3)


async def test_fetch():
    def answer(path):
        match path:
            case "/a":
                return 302, {"Location": "/b"}, b""
            case "/b":
                return 200, {"Content-Type": "text/html; charset=latin-1"}, "<p>Hallö".encode("latin-1")
            case "/round":
                return 302, {"Location": "/round"}, b""
            case "/image":
                return 200, {"Content-Type": "image/png"}, b"x"
            case "/large":
                return 200, {"Content-Type": "text/plain"}, b"x" * (5 << 20)
            case _:
                return 404, {}, b""

    async with site(answer) as (url, asked), backend(allow_private=True) as web:
        named = url.replace("127.0.0.1", "localhost")
        document = await web.fetch(f"{named}/a")
        assert (document.url, document.text, document.is_html) == (f"{named}/b", "<p>Hallö", True)
        assert {host for _, host in asked} == {urlsplit(named).netloc}
        for path, complaint in (
            ("/round", "in circles"),
            ("/image", "image/png"),
            ("/large", "larger than 4 MiB"),
            ("/none", "answers 404"),
        ):
            with pytest.raises(BackendError, match=complaint):
                await web.fetch(url + path)


async def test_no_way_into_this_machine():
    """By address in all its spellings, by name, by port, by redirect; nothing is asked of the server."""
    async with site(lambda path: (200, {}, b"secret")) as (url, asked), backend() as web:
        port = urlsplit(url).port
        for host in INSIDE:
            for target in (f"http://{host}/", f"http://{host}:{port}/", f"https://{host}/"):
                with pytest.raises(BackendError):
                    await web.fetch(target)
        for target in (
            "file:///etc/passwd",
            "ftp://x.example/",
            "http://",
            "http://a@b.example/",
            "x",
            "http://[",
            "http://x:99999/",
        ):
            with pytest.raises(BackendError):
                await web.fetch(target)
        assert asked == []


async def test_a_redirect_is_checked_too(monkeypatch):
    """A public page may not lead into the network; the first address here is taken for public."""
    async with (
        site(lambda path: (302, {"Location": "http://10.0.0.1/"}, b"")) as (url, asked),
        backend() as web,
    ):
        monkeypatch.setattr(room, "PORTS", (80, urlsplit(url).port))
        monkeypatch.setattr(room, "is_public", lambda address: address == "127.0.0.1")
        with pytest.raises(BackendError, match="not a public address"):
            await web.fetch(url)
        assert len(asked) == 1


async def test_a_slow_page_ends(monkeypatch):
    """Its time is up once it has been asked for, however long this machine takes to ask."""
    timer, gone = asyncio.timeout(None), asyncio.Event()
    loop = SimpleNamespace(timeout=lambda seconds: timer, get_running_loop=asyncio.get_running_loop)
    monkeypatch.setattr(room, "asyncio", loop)

    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        timer.reschedule(0)
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        async with backend(allow_private=True) as web:
            with pytest.raises(BackendError, match=r"no answer in 120 s"):
                await web.fetch(url)
        await gone.wait()


@pytest.mark.parametrize(
    ("address", "public"), [("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False)]
)
def test_public_addresses(address, public):
    assert is_public(address) is public
