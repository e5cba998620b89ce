"""Ending the thinking of an answer that is being made, by its id, in each dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

CHAT = {"model": "test", "messages": [{"role": "user", "content": "hi"}]}
KINDS = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT | {"max_tokens": 100, "thinking": {"type": "enabled"}},
    "/v1/responses": {"model": "test", "input": "hi"},
}


def id_of(event: dict[str, Any]) -> str:
    return event.get("id") or event.get("message", event.get("response", {}))["id"]


@pytest.mark.parametrize("path", KINDS)
def test_a_stream_is_told_to_stop_thinking(serve, gate, path):
    server = serve()
    server.source.gate = opened = gate(11)
    try:
        with server.http.stream("POST", path, json=KINDS[path] | {"stream": True}) as answer:
            lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
            name = id_of(json.loads(next(lines)))
            told = server.post(f"{path}/{name}/end_thinking")
            assert (told.status_code, told.json()) == (200, {"id": name, "object": "thinking.ended"})
            assert server.source.thought == [request.id for request in server.source.seen]
            opened.open()
            assert any("ö" in line for line in lines), "it goes on to its end"
    finally:
        opened.open()
    late = server.post(f"{path}/{name}/end_thinking")
    assert late.status_code == 404
    assert name in late.text


def test_a_response_in_the_background(serve, gate, soon):
    server = serve()
    server.source.gate = opened = gate(11)
    made = server.post("/v1/responses", KINDS["/v1/responses"] | {"background": True}).json()
    soon(lambda: server.source.open)
    assert server.post(f"/v1/responses/{made['id']}/end_thinking").status_code == 200
    assert len(server.source.thought) == 1
    opened.open()
