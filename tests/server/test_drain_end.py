"""Answers still open when the drain's time is up: their clients are told, and the log stays calm."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_cut_by_the_end_says_so(serve, gate, soon, caplog, stream):
    caplog.set_level(logging.INFO)
    server = serve(drain_seconds=0.1)
    server.source.gate = gate(30)
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(server.post, CHAT, body)
        soon(lambda: len(server.source.open) == 1)
        server.app.state.lifecycle.drain()
        response = asked.result(120)
    if stream:
        *_, last = response.text.strip().split("\n\n")
        error = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert response.status_code == 503
        error = response.json()["error"]
    assert error["type"] == "service_unavailable_error"
    assert "shut down" in error["message"]
    assert len(server.source.aborted) == 1
    assert [record for record in caplog.records if record.exc_info] == []
