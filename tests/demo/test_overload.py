"""The demo with more clients than it serves at once: those it takes are served, the others are told when."""

from __future__ import annotations

import threading
from collections import Counter

import httpx

ASK = {"prompt": "One, two, three", "max_tokens": 24, "min_tokens": 24, "ignore_eos": True}
CLIENTS, EACH = 24, 4


def test_more_clients_than_rows_are_refused_and_the_others_served(serving_demo, tmp_path):
    # On a busy machine each step takes long whatever its rows, so a slowdown alone might let all of them in.
    flags = ("--max-slowdown", "2", "--max-rows", "8", "--max-queue-seconds", "0", "--log-level", "warning")
    with serving_demo(tmp_path / "log", *flags) as server, httpx.Client(timeout=200) as http:
        answers: list[httpx.Response] = []

        def ask() -> httpx.Response:
            answers.append(http.post(f"{server.url}/v1/completions", json=ASK))
            return answers[-1]

        def client() -> None:
            for _ in range(EACH):
                ask()

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) == {200, 429}
        assert sum(statuses.values()) == CLIENTS * EACH
        for answer in answers:
            if answer.status_code == 200:
                assert answer.json()["usage"]["completion_tokens"] == 24
            else:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert ask().status_code == 200, "and when they are gone there is room"
        assert server.holds_nothing()
