"""A client of an OpenAI-compatible chat endpoint, as the commands need it: streamed, with clear errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from mosso.core.errors import UsageError

CONNECT_SECONDS = 10.0


@dataclass(slots=True)
class ToolCall:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Delta:
    """One piece of a streamed answer; empty fields bring nothing new."""

    reasoning: str = ""
    content: str = ""
    calls: list[tuple[int, ToolCall]] = field(default_factory=list)  # (index, piece of that call)
    finish: str | None = None
    usage: dict[str, Any] | None = None


class ChatClient:
    """Talks to `base_url` (with or without /v1); owns one connection pool."""

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        root = base_url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        self.url = f"{root}/v1"
        with self._reporting():
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def close(self) -> None:
        self._http.close()

    def first_model(self) -> str:
        """The name of the server's first model."""
        with self._reporting():
            response = self._http.get("/models")
        _raise_for(response)
        with self._understanding():
            models = response.json()["data"] or []
            name = models[0]["id"] if models else None
        if name is None:
            raise UsageError(f"{self.url} serves no model")
        return str(name)

    def stream(self, body: dict[str, Any]) -> Iterator[Delta]:
        """Closing the iterator hangs up, which makes the server stop."""
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with self._reporting(), self._http.stream("POST", "/chat/completions", json=body) as response:
            if not response.is_success:
                response.read()
                _raise_for(response)
            chunks = 0
            for line in response.iter_lines():
                if not line.startswith("data:") or line == "data: [DONE]":
                    continue
                with self._understanding():
                    delta = _read_chunk(json.loads(line.removeprefix("data:")))
                yield delta
                chunks += 1
            if not chunks:
                raise self._strange()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except httpx.InvalidURL as error:
            raise UsageError(f"{self.url} is not an address: {error}") from error
        except httpx.ConnectError as error:
            raise UsageError(f"no server answers at {self.url}: {error}") from error
        except httpx.HTTPError as error:
            raise UsageError(f"the connection to {self.url} broke: {error}") from error
        except UnicodeEncodeError:  # half of a surrogate pair: an argument, or a name, in no known encoding
            raise UsageError("what is to be sent is no valid text") from None
        except UnicodeError as error:  # a host that no name server could be asked for
            raise UsageError(f"{self.url} is not an address: {error}") from error

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        """Around what reads an answer: it may be anything."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._strange() from None

    def _strange(self) -> UsageError:
        return UsageError(f"{self.url} does not answer as an OpenAI-compatible server does")


def _read_chunk(chunk: dict[str, Any]) -> Delta:
    if "error" in chunk:
        error = chunk["error"]
        said = error.get("message", error) if isinstance(error, dict) else error
        raise UsageError(f"the server says: {said}")
    choices = chunk.get("choices") or []
    if not choices:
        return Delta(usage=chunk.get("usage"))
    delta = choices[0].get("delta") or {}
    calls = []
    for piece in delta.get("tool_calls") or []:
        function = piece.get("function") or {}
        call = ToolCall(piece.get("id") or "", function.get("name") or "", function.get("arguments") or "")
        calls.append((int(piece.get("index", 0)), call))
    return Delta(
        reasoning=delta.get("reasoning") or delta.get("reasoning_content") or "",
        content=delta.get("content") or "",
        calls=calls,
        finish=choices[0].get("finish_reason"),
        usage=chunk.get("usage"),
    )


def _raise_for(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        message = response.text.strip()[:200] or response.reason_phrase
    raise UsageError(f"the server answers {response.status_code}: {message}")
