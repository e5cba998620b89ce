"""Clients that go away, one and many: what they held must come back."""

import asyncio
import json
import logging
import socket

import httpx
import pytest
from mosso_fakes import harmony, small_tokenizer
from openai import AsyncOpenAI

CHAT = "/v1/chat/completions"
TOKENIZER = small_tokenizer()


def request_bytes(path: str, body: dict) -> bytes:
    payload = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(payload)}", "", ""]
    return "\r\n".join(lines).encode() + payload


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("free", [0, 10])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "what"), [(CHAT, "messages"), ("/v1/completions", "prompt")])
def test_a_client_that_hangs_up(serve, gate, soon, path, what, stream, free, n):
    """While it waits for the first token, in the middle of a stream, or of a whole answer."""
    server = serve()
    server.source.gate = gate(free)
    prompt = "hi" if what == "prompt" else [{"role": "user", "content": "hi"}]
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(request_bytes(path, {what: prompt, "stream": stream, "n": n}))
        soon(lambda: len(server.source.open) == n)
        if stream and free:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        assert server.app.state.lifecycle.active == 1
    soon(lambda: len(server.source.aborted) == n)
    assert not server.source.open
    soon(lambda: server.app.state.lifecycle.active == 0)
    soon(lambda: "mosso:client_disconnects_total{" in server.http.get("/metrics").text)


def test_a_client_that_leaves_amid_its_body(serve, soon, caplog):
    server = serve()
    caplog.set_level(logging.INFO, logger="mosso.server")
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(request_bytes(CHAT, {"messages": []})[:-5])
        soon(lambda: server.app.state.lifecycle.active == 1)
    soon(lambda: server.app.state.lifecycle.active == 0)
    soon(lambda: "gone=True" in caplog.text)
    assert server.source.seen == []


async def test_sixty_four_clients_and_a_third_hangs_up(serve, soon, caplog):
    """Every client that stays gets its own answer, whole; everything held comes back; nothing is logged."""
    caplog.set_level(logging.WARNING)

    def script(request):
        prompt = TOKENIZER.decode(request.prompt)
        word = prompt[prompt.index("<<") + 2 : prompt.index(">>")]
        return harmony(TOKENIZER, f"<|channel|>final<|message|>{word * 40}<|return|>")

    server = serve(script)
    client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)

    async def one(number: int) -> None:
        message = {"role": "user", "content": f"<<w{number}.>>"}
        stream = await client.chat.completions.create(model="test", messages=[message], stream=True)
        text, leaves = "", number % 3 == 0
        async with stream:
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                if leaves and len(text) > number % 7:
                    return
        assert text == f"w{number}." * 40

    async with client:
        await asyncio.gather(*map(one, range(64)))
    soon(lambda: not server.source.open)
    soon(lambda: server.app.state.lifecycle.active == 0)
    assert len(server.source.seen) == 64
    assert [record for record in caplog.records if record.name.startswith(("mosso", "uvicorn"))] == []


def test_a_refused_body_is_read_no_further_than_the_limit(serve):
    server = serve(max_body_bytes=1000)
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50000000\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 413")


def test_the_connection_lives_on_after_an_answer(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(3):
            assert client.post("/tokenize", json={"prompt": "a"}).status_code == 200
