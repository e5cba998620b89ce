"""Who would wait too long is refused at the door, and others are not because of him."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from mosso.api.caller import Caller
from mosso.core.errors import OverloadedError, UnavailableError
from mosso.core.requests import BACKGROUND, EngineStats, QueueLoad, Request, SamplingParams
from mosso.server.admission import Admission, queue_seconds

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}]}


def stats(*loads, rows=4, arriving=0) -> EngineStats:
    """An engine that frees a row each 2 seconds and takes 0.01 for a token of a prompt."""
    made = tuple(QueueLoad(*load) for load in loads)
    return EngineStats(
        loads=made, row_limit=rows, answer_seconds=2.0, prompt_token_seconds=0.01, arriving=arriving
    )


def wait(state, caller=Caller(), arriving=0) -> float:  # noqa: B008 - it is frozen
    return queue_seconds(state, caller, arriving)


# ---- the estimate


def test_where_a_row_is_free_nobody_waits():
    assert wait(stats()) == 0
    assert wait(stats((0, "", 3, 0, 0))) == 0
    assert wait(stats((0, "", 1, 2, 50))) == 0, "those that wait will start with the next step"


def test_all_rows_taken_the_next_one_waits_for_one_answers_end():
    assert wait(stats((0, "", 4, 0, 0))) == 2
    assert wait(stats((0, "", 3, 0, 0), arriving=1)) == 2
    assert wait(stats((0, "", 3, 0, 0)), arriving=1) == 2


def test_each_one_before_it_takes_an_answer_and_its_prompt():
    assert wait(stats((0, "", 4, 3, 500))) == 4 * 2 + 5
    assert wait(stats((0, "", 4, 3, 500), arriving=1), arriving=1) == 6 * 2 + 5


def test_what_is_worse_stands_in_nobodys_way():
    assert wait(stats((BACKGROUND, "", 4, 900, 900))) == 0
    assert wait(stats((0, "", 4, 1, 100), (BACKGROUND, "", 0, 900, 900))) == 2 * 2 + 1


def test_what_is_better_comes_first_whoever_it_is_from():
    busy = stats((-1, "other", 0, 5, 0), (0, "other", 4, 7, 0))
    assert wait(busy, Caller("me")) == (5 + 1 + 1) * 2
    assert wait(busy, Caller("me", priority=-1)) == 0, "the rows are taken from worse ones"


def test_tenants_take_turns():
    busy = stats((0, "flood", 4, 100, 1000), (0, "me", 0, 2, 20))
    assert wait(busy, Caller("me")) == pytest.approx((2 + 3 + 1) * 2 + 0.2 + 0.3)
    assert wait(busy, Caller("new")) == pytest.approx((1 + 1 + 1) * 2 + 0.1 + 0.1)
    assert wait(busy, Caller("flood")) == pytest.approx((100 + 2 + 1) * 2 + 10.2)


def test_while_nothing_is_known_nobody_is_refused():
    unknown = replace(stats((0, "", 4, 900, 900)), answer_seconds=0.0, prompt_token_seconds=0.0)
    assert wait(unknown) == 0
    assert wait(EngineStats()) == 0


# ---- what is on its way


class Source:
    """A TokenSource whose engine has two rows, and sees a request some time after its stream was opened."""

    def __init__(self):
        self.seen = 0
        self.error = None

    async def stats(self):
        if self.error is not None:
            raise self.error
        return stats((0, "", self.seen, 0, 0), rows=2)

    async def stream(self, request):
        self.seen += 1
        yield request


async def submit(admission: Admission) -> None:
    async for _ in admission.stream(Request("a", (1,), SamplingParams(1))):
        pass


async def test_what_was_let_in_counts_for_those_behind_it():
    admission = Admission(Source(), 0.0)

    async def request() -> bool:
        with admission.request(Caller()):
            try:
                await admission.enter()
            except OverloadedError:
                return False
            await asyncio.sleep(0.01)
            await submit(admission)
            return True

    assert await asyncio.gather(*(request() for _ in range(6))) == [True, True, False, False, False, False]


async def test_what_never_reached_the_engine_counts_no_more():
    admission = Admission(Source(), 0.0)
    for _ in range(5):
        with admission.request(Caller()):
            await admission.enter()
            await admission.enter()  # once is enough
    with admission.request(Caller()):
        await admission.enter()
        await submit(admission)
        await submit(admission)  # two choices
    with admission.request(Caller()), pytest.raises(OverloadedError):
        await admission.check()


async def test_who_has_nothing_in_hand_is_never_refused():
    admission = Admission(source := Source(), 0.0)
    source.seen = 9
    await admission.check()
    await admission.enter()
    await submit(admission)


async def test_an_engine_that_is_gone_refuses_by_itself():
    admission = Admission(source := Source(), 0.0)
    source.error = UnavailableError("gone")
    with admission.request(Caller()):
        await admission.enter()


# ---- over HTTP


def test_a_refusal_says_when_to_come_back(serve):
    server = serve(max_queue_seconds=10.0)
    server.source.stats_value = stats((0, "", 4, 9, 100))
    answer = server.post(CHAT, HI)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "11"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "about 21.0 seconds, and requests wait 10 at most" in error["message"]
    assert server.source.seen == []
    server.source.stats_value = stats((0, "", 4, 3, 100))
    assert server.post(CHAT, HI).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"model": "m", "max_tokens": 5, **HI}),
        ("/api/chat", {"model": "m", **HI}),
    ],
)
def test_every_dialect_is_refused(serve, path, body):
    server = serve()
    server.source.stats_value = stats((0, "", 4, 99, 100))
    assert server.post(path, body).status_code == 429


def test_what_needs_no_engine_is_served(serve):
    server = serve()
    server.source.stats_value = stats((0, "", 4, 99, 100))
    for path in ("/health", "/metrics", "/v1/models"):
        assert server.http.get(path).status_code == 200
    assert server.post("/tokenize", {"prompt": "hi"}).status_code == 200


def test_the_body_is_not_waited_for(serve):
    server = serve()
    server.source.stats_value = stats((0, "", 4, 99, 100))
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{{".encode())
        assert b" 429 " in connection.recv(4096).partition(b"\r\n")[0]
