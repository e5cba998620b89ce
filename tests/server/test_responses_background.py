"""Responses in the background: polled, followed, resumed, cancelled, and what a new start makes of them."""

import asyncio
import json

import openai
import pytest
from mosso_fakes import SETTINGS, MemoryStore, ScriptedSource, harmony, small_tokenizer

from mosso.api.caller import Caller
from mosso.api.responses_schema import ResponsesRequest
from mosso.api.services import Services
from mosso.core.errors import OverloadedError
from mosso.server.sqlite_store import SqliteStore

RUNNING = ("queued", "in_progress")


@pytest.fixture
def held(serve, gate):
    """A server whose answers stop in the thinking until its gate is opened."""
    server = serve()
    server.gate = gate(11)
    server.source.gate = server.gate
    yield server
    server.gate.open()


def start(server, **fields):
    return server.client.responses.create(model="test", input="hi", background=True, **fields)


def events_of(stream):
    return [event.model_dump(exclude_unset=True) for event in stream]


def test_polled_until_it_is_done(held, soon):
    made = start(held)
    assert (made.status, made.background) == ("queued", True)
    soon(lambda: held.client.responses.retrieve(made.id).output)
    assert held.client.responses.retrieve(made.id).status == "in_progress"
    with pytest.raises(openai.BadRequestError, match="still being made"):
        held.client.responses.create(model="test", input="and", previous_response_id=made.id)
    held.gate.open()
    soon(lambda: held.client.responses.retrieve(made.id).status not in RUNNING)
    done = held.client.responses.retrieve(made.id)
    assert (done.status, done.output_text) == ("completed", "the Hallö")
    assert held.client.responses.create(model="test", input="and", previous_response_id=made.id).output_text


def test_a_stream_is_left_and_taken_up_again(held, soon):
    seen = []
    with start(held, stream=True) as stream:
        for event in stream:
            seen.append(event.model_dump(exclude_unset=True))
            if event.type == "response.reasoning_text.delta":
                break
    assert [event["type"] for event in seen[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    response_id = seen[0]["response"]["id"]
    last = seen[-1]["sequence_number"]
    held.gate.open()
    with held.client.responses.retrieve(response_id, stream=True, starting_after=last) as stream:
        seen += events_of(stream)
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert seen[-1]["type"] == "response.completed"
    soon(lambda: not held.app.state.responses._runs)
    with held.client.responses.retrieve(response_id, stream=True) as stream:
        assert events_of(stream) == seen  # from the store, the same again


def test_cancelled(held, soon):
    made = start(held)
    soon(lambda: held.client.responses.retrieve(made.id).output)
    cancelled = held.client.responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert held.client.responses.retrieve(made.id) == cancelled
    assert held.client.responses.cancel(made.id) == cancelled
    soon(lambda: held.source.aborted)
    assert not held.source.open
    assert not held.app.state.lifecycle.active


def test_deleted_while_it_runs(held, soon):
    made = start(held)
    soon(lambda: held.source.open)
    held.client.responses.delete(made.id)
    assert not held.source.open
    with pytest.raises(openai.NotFoundError):
        held.client.responses.retrieve(made.id)


def test_only_what_is_in_the_background(server):
    made = server.client.responses.create(model="test", input="hi")
    with pytest.raises(openai.BadRequestError, match="not made in the background"):
        server.client.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError, match="not made in the background"):
        server.client.responses.retrieve(made.id, stream=True)
    assert server.http.get(f"/v1/responses/{made.id}?starting_after=3").status_code == 400
    assert server.http.get(f"/v1/responses/{made.id}?starting_after=x&stream=true").status_code == 400
    with pytest.raises(openai.NotFoundError):
        server.client.responses.cancel("resp_none")


def test_an_engine_that_refuses_is_a_failed_response(serve, soon):
    server = serve()
    server.source.start_error = OverloadedError("The queue is full.")
    made = start(server)
    soon(lambda: server.client.responses.retrieve(made.id).status == "failed")
    failed = server.client.responses.retrieve(made.id)
    assert (failed.error.code, failed.error.message) == ("rate_limit_exceeded", "The queue is full.")


def test_a_store_that_fails(held, soon):
    """What cannot be stored at its start is refused; what cannot at its end is answered from memory."""
    service = held.app.state.responses
    service._store = MemoryStore()
    made = start(held)
    service._store.failing = True
    with pytest.raises(openai.InternalServerError) as refused:
        start(held)
    assert refused.value.status_code == 503
    held.gate.open()
    soon(lambda: held.client.responses.retrieve(made.id).status == "completed")
    assert held.client.responses.retrieve(made.id).to_dict()["store"] is False


async def test_what_ran_when_the_server_ended_has_failed(make_service, tmp_path):
    store = SqliteStore(tmp_path / "store", now=lambda: 1000.0)
    _, run = await make_service(store)
    assert not run.ended
    run.task.cancel()  # without a client's wish, as the loop's end does
    again, _ = await make_service(store, begin=False)
    await again.recover()
    body = json.loads(await again.retrieve("", run.answer.job.id))
    assert (body["status"], body["error"]["code"]) == ("failed", "server_error")
    events = [json.loads(e) async for batch in await again.follow("", body["id"], -1) for e in batch]
    assert events[-1]["type"] == "response.failed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    store.close()


class LateStore(SqliteStore):
    """Its appends are told only after a while, though they are done."""

    def __init__(self, path):
        super().__init__(path)
        self.done, self.told = asyncio.Event(), asyncio.Event()

    async def append(self, id, first, events):  # noqa: A002
        await super().append(id, first, events)
        self.done.set()
        await self.told.wait()


async def test_cancelled_while_its_events_are_written(make_service, tmp_path, monkeypatch):
    monkeypatch.setattr("mosso.api.responses.FLUSH_SECONDS", -1)  # with each batch of events
    store = LateStore(tmp_path / "store")
    service, run = await make_service(store, free=6)
    await store.done.wait()
    cancelling = asyncio.create_task(service.cancel("", run.answer.job.id))
    await asyncio.sleep(0)
    store.told.set()
    assert json.loads(await cancelling)["status"] == "cancelled"
    events = [e async for batch in await service.follow("", run.answer.job.id, -1) for e in batch]
    assert events == run.events, "what was told to readers then is told to later ones"
    store.close()


@pytest.fixture
def make_service(gate):
    """make_service(store): a service, and a response that it makes in the background and never ends."""
    tokenizer = small_tokenizer()

    async def build(store, begin=True, free=4):
        source = ScriptedSource(lambda request: harmony(tokenizer, "<|channel|>final<|message|>hi<|return|>"))
        source.gate = gate(free)
        service = Services(source, tokenizer, SETTINGS, store=store).responses
        if not begin:
            return service, None
        body = ResponsesRequest(input="hi", background=True)
        return service, await service.start(service.prepare(body, [], Caller()), lambda: None)

    return build
