"""The examined server: what a case sends it, and what came back as it came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `body` is None where the text is not JSON."""

    status: int
    body: Any
    text: str

    @property
    def complaint(self) -> str:
        """What the server says went wrong, for a sentence."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        message = error.get("message") if isinstance(error, dict) else error
        return str(message or self.text.strip() or "nothing")[:160]


@dataclass(slots=True)
class Stream:
    """A streamed answer: `events` are (SSE event name or "", its data), or lines of JSON."""

    status: int
    content_type: str
    events: list[tuple[str, str]] = field(default_factory=list)
    text: str = ""  # of an answer that is no stream

    @property
    def whole(self) -> Answer:
        """The answer where it was no stream: an error."""
        return Answer(self.status, _read(self.text), self.text)


class Server:
    """One server under examination. A context manager; it owns its connections.

    `said` collects every text that the model said to any case, as (where, text).
    """

    def __init__(self, url: str, *, model: str, api_key: str | None = None, timeout: float = 120.0) -> None:
        self.root = url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.said: list[tuple[str, str]] = []
        self._timeout = timeout  # of an answer as a whole: httpx's own is of each read
        # Anthropic's clients send the key in a header of its own
        headers = {"Authorization": f"Bearer {api_key}", "x-api-key": api_key} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=self.root, headers=headers, timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS)
        )

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str) -> Answer:
        async with asyncio.timeout(self._timeout):
            return _answer(await self._http.get(path))

    async def delete(self, path: str) -> Answer:
        async with asyncio.timeout(self._timeout):
            return _answer(await self._http.delete(path))

    async def post(self, path: str, body: Mapping[str, Any] | str) -> Answer:
        """`body`: JSON, or a text that is sent as it is."""
        async with asyncio.timeout(self._timeout):
            return _answer(await self._http.post(path, content=_content(body), headers=_JSON))

    async def stream(self, path: str, body: Mapping[str, Any]) -> Stream:
        """The answer to `body` with its events; lines that are no events have the name "?"."""
        async with self.open(path, body) as response:
            stream = Stream(response.status_code, response.headers.get("content-type", ""))
            if response.is_error:
                stream.text = (await response.aread()).decode(errors="replace")
                return stream
            is_lines = "ndjson" in stream.content_type
            async for event in _lines(response) if is_lines else _events(response):
                stream.events.append(event)
        return stream

    @asynccontextmanager
    async def open(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        """A stream that is read, or left, by the caller."""
        request = self._http.build_request("POST", path, content=_content(body), headers=_JSON)
        async with asyncio.timeout(self._timeout):
            response = await self._http.send(request, stream=True)
            try:
                yield response
            finally:
                await response.aclose()


_JSON = {"Content-Type": "application/json", "anthropic-version": "2023-06-01"}


def _content(body: Mapping[str, Any] | str) -> bytes:
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, _read(response.text), response.text)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


async def _lines(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    async for line in _text_lines(response):
        if line:
            yield "", line


async def _text_lines(response: httpx.Response) -> AsyncIterator[str]:
    """Lines as SSE ends them. httpx would also end them at U+2028 and its like, which JSON may hold."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    name, data = "", []
    async for line in _text_lines(response):
        label, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match label:
            case "data":
                data.append(value)
            case "event":
                name = value
            case "" if not line:
                if data:
                    yield name, "\n".join(data)
                name, data = "", []
            case "" | "id" | "retry":  # a comment, or what nobody here needs
                pass
            case _:
                yield "?", line
    if data:
        yield name, "\n".join(data)
