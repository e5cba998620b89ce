"""A bad quarter of an hour for the demo's server, and what must still be true.

    python tests/demo/chaos.py SECONDS [CLIENTS]

Clients ask by chat and by Responses, whole and streamed; some hang up midway, some send nonsense. Meanwhile
the engine is killed every thirtieth second (in a short run: every third of it), and in the middle tenth of
the time no file of the server's can grow, as on a full disk. What must hold:

- an answer is the very one that the question had in peace, or a clear error: 429, 503, or an error event;
- nonsense gets a 4xx; nothing gets a 500;
- a response that said it is stored is there at the end, and says the same;
- when all is quiet no KV block is held, and the memory of the server's process has not grown.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.append(str(Path(__file__).parents[1] / "fakes"))  # as a script of its own it has no other way
from processes import engines_of
from steady_clock import SteadyClock

CLOCK = SteadyClock()  # a pause of this process is no part of the time that it has for its acts
QUESTIONS = [f"What is {13 + 57 * index} + {29 + 31 * index}?" for index in range(12)]
NONSENSE = [
    '{"messages": ',
    "[]",
    '{"messages": 3}',
    '{"messages": [], "model": "x"}',
    '{"input": {"a": 1}}',
    "\x00",
]
BUSY = (429, 503)
GROWTH = 64 << 20  # bytes that the server's process may grow by after the first quarter
QUIET_SECONDS = 60.0
KILL_SECONDS = 30.0
FULL_FILE = 4096  # bytes: more than any file may grow to while the disk is full


@dataclass
class Chaos:
    """One run against the server `process` at `url`. `wrong` collects sentences about what must not be."""

    url: str
    pid: int
    seconds: float
    clients: int = 32
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    stored: dict[str, str] = field(default_factory=dict)  # id → text
    peace: dict[tuple[str, str], str] = field(default_factory=dict)  # (path, question) → answer

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=120, limits=limits) as http:
            for question in QUESTIONS:
                for path in ("chat", "responses"):
                    self.peace[path, question] = await self._whole(http, path, question) or ""
            self.stored.clear()
            self.counts.clear()
            end = CLOCK.monotonic() + self.seconds
            trouble = asyncio.create_task(self._trouble(end))
            memory = asyncio.create_task(self._memory())
            await asyncio.gather(*(self._client(http, index, end) for index in range(self.clients)))
            await trouble
            await self._afterwards(http, await memory)

    async def _client(self, http: httpx.AsyncClient, index: int, end: float) -> None:
        rng = random.Random(index)
        acts = (self._whole, self._streamed, self._hangup, self._nonsense)
        while CLOCK.monotonic() < end:
            act = rng.choices(acts, (4, 4, 2, 1))[0]
            path, question = rng.choice(("chat", "responses")), rng.choice(QUESTIONS)
            try:
                said = await act(http, path, question)
            except httpx.HTTPError as error:
                self.wrong.append(f"{path}: the connection broke: {error!r}")
                continue
            if said is None:
                await asyncio.sleep(0.2)  # refused: the engine is coming back
            elif said != self.peace.get((path, question), said) and act in (self._whole, self._streamed):
                self.wrong.append(f"{path}: {question} is answered {said!r}")

    async def _whole(self, http: httpx.AsyncClient, path: str, question: str) -> str | None:
        answer = await http.post(_url(path), json=_body(path, question))
        if not self._answered(answer.status_code, answer.text):
            return None
        return self._noted(answer.json(), path)

    async def _streamed(self, http: httpx.AsyncClient, path: str, question: str) -> str | None:
        text, body = "", _body(path, question) | {"stream": True}
        async with http.stream("POST", _url(path), json=body) as answer:
            if answer.is_error:
                self._answered(answer.status_code, (await answer.aread()).decode())
                return None
            async for line in answer.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event or event.get("type") in ("error", "response.failed"):
                    self.counts["broken off with an error"] += 1
                    return None
                if path == "chat":
                    text += "".join(c["delta"].get("content") or "" for c in event["choices"])
                elif event["type"] == "response.completed":
                    self.counts["answered"] += 1
                    return self._noted(event["response"], path)
        self.counts["answered"] += 1
        if path == "responses":
            self.wrong.append("a stream of Responses ended without an end")
        return text

    async def _hangup(self, http: httpx.AsyncClient, path: str, question: str) -> str | None:
        async with http.stream("POST", _url(path), json=_body(path, question) | {"stream": True}) as answer:
            async for _line in answer.aiter_lines():
                break
        self.counts["hung up"] += 1
        return ""

    async def _nonsense(self, http: httpx.AsyncClient, path: str, question: str) -> str | None:
        body = random.choice(NONSENSE)
        answer = await http.post(_url(path), content=body)
        if not 400 <= answer.status_code < 500 and answer.status_code != 503:
            self.wrong.append(f"{path}: {body!r} is answered {answer.status_code}")
        self.counts["nonsense"] += 1
        return ""

    def _answered(self, status: int, text: str) -> bool:
        self.counts["answered" if status == 200 else f"refused with {status}"] += 1
        if status not in (200, *BUSY):
            self.wrong.append(f"a question is answered {status}: {text[:200]}")
        return status == 200

    def _noted(self, body: dict[str, Any], path: str) -> str:
        if path == "chat":
            return str(body["choices"][0]["message"]["content"])
        parts = [
            part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]
        ]
        if body["store"]:
            self.stored[body["id"]] = "".join(parts)
        else:
            self.counts["answered, but not stored"] += 1
        return "".join(parts)

    async def _trouble(self, end: float) -> None:
        """Kills the engine again and again; fills the disk in the middle."""
        began, every = CLOCK.monotonic(), min(KILL_SECONDS, self.seconds / 3)
        full = (began + 0.45 * self.seconds, began + 0.55 * self.seconds)
        kills, is_full = 1, False
        while (now := CLOCK.monotonic()) < end:
            if now > began + kills * every and end - now > 1:
                self.counts["kills"] += len(killed := engines_of(self.pid))
                for child in killed:
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                kills += 1
            if is_full != (full[0] < now < full[1]):
                is_full = not is_full
                self._limit(FULL_FILE if is_full else resource.RLIM_INFINITY)
            await asyncio.sleep(0.1)
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, hard))

    async def _memory(self) -> int:
        await asyncio.sleep(self.seconds / 4)
        return _resident(self.pid)

    async def _afterwards(self, http: httpx.AsyncClient, memory: int) -> None:
        deadline = CLOCK.monotonic() + QUIET_SECONDS
        while (held := await _held(http)) and CLOCK.monotonic() < deadline:
            await asyncio.sleep(0.2)
        if held:
            self.wrong.append(f"{held:.0f} KV blocks are held though nobody asks")
        grown = _resident(self.pid) - memory
        if grown > GROWTH:
            self.wrong.append(f"the server grew by {grown >> 20} MB")
        self.counts["MB grown"] = grown >> 20
        for id_, text in self.stored.items():
            answer = await http.get(f"/v1/responses/{id_}")
            if answer.status_code != 200:
                self.wrong.append(f"a stored response is answered {answer.status_code}")
            elif self._noted(answer.json(), "responses") != text:
                self.wrong.append("a stored response says something else")
        self.counts["stored"] = len(self.stored)


def _url(path: str) -> str:
    return {"chat": "/v1/chat/completions", "responses": "/v1/responses"}[path]


def _body(path: str, question: str) -> dict[str, Any]:
    if path == "chat":
        return {"messages": [{"role": "user", "content": question}], "temperature": 0}
    return {"input": question, "temperature": 0, "store": True}


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def _held(http: httpx.AsyncClient) -> float:
    """KV blocks held now; as many as one could wish while there is no engine to tell."""
    for line in (await http.get("/metrics")).text.splitlines():
        if line.startswith("mosso:kv_blocks{") and 'state="held"' in line:
            return float(line.rpartition(" ")[2])
    return float("inf")


def main() -> None:
    import tempfile

    from conftest import serving

    seconds, clients = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 32
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with serving(log, "--store", f"{folder}/store.db", "--log-level", "error") as server:
            chaos = Chaos(server.url, server.process.pid, seconds, clients)
            asyncio.run(chaos.run())
    print(*(f"{count:7} {what}" for what, count in chaos.counts.items()), sep="\n")
    print(*Counter(chaos.wrong).most_common(20), sep="\n")
    sys.exit(1 if chaos.wrong else 0)


if __name__ == "__main__":
    main()
