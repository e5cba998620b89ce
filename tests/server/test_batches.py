"""/v1/files and /v1/batches through the openai SDK, over a real socket."""

import json

import pytest
from openai import BadRequestError, NotFoundError

from mosso.api.settings import BatchSettings
from mosso.core.requests import BACKGROUND
from mosso.server.batch_store import SqliteBatchStore

QUICK = BatchSettings(tick_seconds=0.01, retry_seconds=0.01)
CHAT = "/v1/chat/completions"


def chat(custom_id, **body):
    return line(custom_id, CHAT, {"messages": [{"role": "user", "content": "hi"}], **body})


def line(custom_id, url, body):
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def as_lines(*lines):
    return "\n".join(json.dumps(each) for each in lines).encode()


@pytest.fixture
def start(serve, tmp_path):
    """start(**settings): a server whose files and batches are in a file of its own."""
    stores = []

    def begin(**settings):
        stores.append(SqliteBatchStore(tmp_path / f"{len(stores)}.sqlite3", now=lambda: 1000.0))
        server = serve(batch_store=stores[-1], **({"api": {"batches": QUICK}} | settings))
        server.source.batch = 64
        return server

    yield begin
    for store in stores:
        store.close()


@pytest.fixture
def run(soon):
    """run(server, lines, endpoint): the batch when it is over."""

    def go(server, *lines, endpoint=CHAT, **fields):
        file = server.client.files.create(file=("in.jsonl", as_lines(*lines)), purpose="batch")
        batch = server.client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields
        )
        assert batch.status == "validating"
        return over(server, batch, soon)

    return go


def over(server, batch, soon):
    ended = ("completed", "failed", "expired", "cancelled")
    soon(lambda: server.client.batches.retrieve(batch.id).status in ended)
    return server.client.batches.retrieve(batch.id)


def results(server, file_id):
    return [json.loads(each) for each in server.client.files.content(file_id).text.splitlines()]


BODIES = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi", "max_tokens": 3},
    "/v1/responses": {"input": "hi"},
}


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_batch_is_answered(start, run, endpoint):
    server = start()
    lines = [line(f"n{number}", endpoint, BODIES[endpoint]) for number in range(20)]
    batch = run(server, *lines, endpoint=endpoint, metadata={"for": "tests"})
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 20, "completed": 20, "failed": 0}
    assert batch.error_file_id is None
    assert batch.metadata == {"for": "tests"}
    assert batch.model == "gpt-oss-test"
    rows = results(server, batch.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"n{number}" for number in range(20)]
    assert len({row["id"] for row in rows}) == 20
    answers = [row["response"] for row in rows]
    assert {answer["status_code"] for answer in answers} == {200}
    assert all(row["error"] is None for row in rows)
    used = [answer["body"]["usage"] for answer in answers]
    name = "input_tokens" if endpoint == "/v1/responses" else "prompt_tokens"
    assert batch.usage.input_tokens == sum(usage[name] for usage in used)
    assert batch.usage.total_tokens == sum(usage["total_tokens"] for usage in used)
    told = server.client.files.retrieve(batch.output_file_id)
    assert told.purpose == "batch_output"
    assert told.bytes == len(server.client.files.content(batch.output_file_id).content)
    assert {request.priority for request in server.source.seen} == {BACKGROUND}


def test_a_wrong_body_is_an_error_of_its_own_line(start, run):
    server = start()
    batch = run(server, chat("good"), chat("bad", temperature=9), chat("worse", messages=[]))
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 1, "failed": 2}
    assert [row["custom_id"] for row in results(server, batch.output_file_id)] == ["good"]
    bad, worse = results(server, batch.error_file_id)
    assert bad["response"]["status_code"] == worse["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["param"] == "temperature"
    assert worse["custom_id"] == "worse"


def test_a_file_that_is_no_batch_fails_with_its_lines(start, run):
    server = start()
    lines = [
        chat("a"),
        chat("a"),
        {"custom_id": "b", "method": "POST", "url": CHAT},
        line("c", "/v1/completions", {"prompt": "x"}),
        chat("d", model="gpt-9"),
        chat("e", stream=True),
        chat("f") | {"method": "GET"},
        chat("g") | {"custom_id": 7},
        chat("") | {"body": {}},
        chat("h") | {"body": []},
    ]
    batch = run(server, *lines)
    assert batch.status == "failed"
    assert batch.failed_at == 1000
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "missing_required_parameter", "body"),
        (4, "invalid_url", "url"),
        (5, "model_not_found", "body.model"),
        (6, "unsupported_parameter", "body.stream"),
        (7, "invalid_method", "method"),
        (8, "invalid_type", "custom_id"),
        (9, "invalid_value", "custom_id"),
        (10, "invalid_type", "body"),
    ]
    assert server.source.seen == []
    assert run(server).errors.data[0].code == "empty_file"


def test_limits_of_a_file(start, run):
    small = BatchSettings(max_requests=2, max_line_bytes=200, max_file_bytes=1000, tick_seconds=0.01)
    server = start(api={"batches": small})
    long = chat("c", user="x" * 200)
    assert run(server, chat("a"), chat("b"), chat("c")).errors.data[0].code == "too_many_tasks"
    assert run(server, chat("a"), long).errors.data[0].code == "line_too_large"
    with pytest.raises(Exception, match="over the limit of 1000 bytes") as refused:
        server.client.files.create(file=("in.jsonl", b"x" * 1001), purpose="batch")
    assert refused.value.status_code == 413


def test_cancelling_keeps_what_is_done(start, soon):
    server = start(api={"batches": BatchSettings(concurrency=4, tick_seconds=0.01)})
    passed = []

    async def gate(request):
        import asyncio

        if request.id not in passed and len(passed) < 6:
            passed.append(request.id)
        while request.id not in passed:
            await asyncio.sleep(0.01)

    server.source.gate = gate
    file = server.client.files.create(
        file=("in.jsonl", as_lines(*[chat(f"n{number}") for number in range(50)])), purpose="batch"
    )
    batch = server.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    soon(lambda: server.client.batches.retrieve(batch.id).request_counts.completed == 6)
    with pytest.raises(BadRequestError, match="not over"):
        server.client.files.delete(file.id)
    assert server.client.batches.cancel(batch.id).status == "cancelling"
    done = over(server, batch, soon)
    assert done.status == "cancelled"
    assert done.request_counts.model_dump() == {"total": 50, "completed": 6, "failed": 44}
    assert len(results(server, done.output_file_id)) == 6
    assert {row["error"]["code"] for row in results(server, done.error_file_id)} == {"batch_cancelled"}
    assert server.source.open == set()
    with pytest.raises(BadRequestError, match="cannot be cancelled"):
        server.client.batches.cancel(batch.id)
    server.client.files.delete(file.id)


def test_lists_and_deletion(start, run):
    server = start()
    batches = [run(server, chat("a")) for _ in range(3)]
    assert [batch.id for batch in server.client.batches.list(limit=2)] == [b.id for b in batches[::-1]]
    with pytest.raises(NotFoundError) as missing:
        server.client.batches.list(after="batch_none")
    assert missing.value.param == "after"
    assert [each.id for each in server.client.batches.list(after=batches[1].id)] == [batches[0].id]
    files = list(server.client.files.list(purpose="batch_output", order="asc", limit=1))
    assert [file.id for file in files] == [batch.output_file_id for batch in batches]
    assert len(list(server.client.files.list())) == 6
    assert server.client.files.delete(files[0].id).deleted
    with pytest.raises(NotFoundError):
        server.client.files.content(files[0].id)
    assert len(list(server.client.files.list())) == 5


def test_a_wrong_batch_is_refused(start):
    server = start()
    file = server.client.files.create(file=("in.jsonl", as_lines(chat("a"))), purpose="batch")
    for change, param in (
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"more": 1}, "more"),
    ):
        body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | change
        answer = server.post("/v1/batches", body)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["param"] == param


def test_outputs_are_no_inputs(start, run):
    server = start()
    output = run(server, chat("a"), output_expires_after={"anchor": "created_at", "seconds": 3600})
    file = server.client.files.retrieve(output.output_file_id)
    assert file.expires_at == 1000 + 3600
    with pytest.raises(BadRequestError, match="purpose"):
        server.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def test_nobody_finds_anothers(start, run, soon):
    from hashlib import sha256

    from mosso.server.keys import FixedKeys, Key
    from mosso.server.tenants import Tenants
    from mosso.server.usage_store import UsageStore

    usage = UsageStore()
    keys = [Key(name, (sha256(name.encode()).digest(),)) for name in ("ann", "bob")]
    server = start(tenants=Tenants(FixedKeys(*keys), usage))
    ann, bob = (server.client.with_options(api_key=name) for name in ("ann", "bob"))
    file = ann.files.create(file=("in.jsonl", as_lines(chat("a"))), purpose="batch")
    fields = {"endpoint": CHAT, "completion_window": "24h"}
    batch = ann.batches.create(input_file_id=file.id, **fields)
    soon(lambda: ann.batches.retrieve(batch.id).status == "completed")
    output = ann.batches.retrieve(batch.id).output_file_id
    for call in (
        lambda: bob.files.retrieve(file.id),
        lambda: bob.files.content(output),
        lambda: bob.files.delete(file.id),
        lambda: bob.files.list(after=file.id),
        lambda: bob.batches.create(input_file_id=file.id, **fields),
        lambda: bob.batches.retrieve(batch.id),
        lambda: bob.batches.cancel(batch.id),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert list(bob.files.list()) == list(bob.batches.list()) == []
    assert {request.tenant for request in server.source.seen} == {"ann"}
    usage.close()
