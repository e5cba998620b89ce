"""Batches over a scripted engine and a real store: clocks, faults, restarts."""

import asyncio
import json
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

import pytest
from mosso_fakes import SETTINGS, MemoryStore, ScriptedSource, harmony, small_tokenizer

from mosso.api.batches import BatchService
from mosso.api.batches_schema import BatchRequest
from mosso.api.caller import Caller
from mosso.api.files import FileService
from mosso.api.responses_store import StoreError
from mosso.api.services import Services
from mosso.api.settings import BatchSettings
from mosso.core.errors import EngineError, OverloadedError, UnavailableError
from mosso.core.requests import BACKGROUND, FinishReason, TokenEvent
from mosso.server.batch_store import SqliteBatchStore

TOKENIZER = small_tokenizer()
CHAT = "/v1/chat/completions"
QUICK = {"tick_seconds": 0.01, "retry_seconds": 0.01, "store_patience_seconds": 0.1}
ANN = Caller("ann")


def lines(count):
    return b"".join(
        json.dumps(
            {
                "custom_id": f"n{number}",
                "method": "POST",
                "url": CHAT,
                "body": {"messages": [{"role": "user", "content": f"say {number}"}]},
            }
        ).encode()
        + b"\n"
        for number in range(count)
    )


class Clock:
    def __init__(self):
        self.now = 1000

    def __call__(self):
        return self.now


class Bench:
    """One process's services over a store; `source` answers at once, unless a test gates it."""

    def __init__(self, store, clock, **limits):
        self.source = ScriptedSource(
            lambda request: harmony(TOKENIZER, "<|channel|>final<|message|>ok<|return|>")
        )
        self.source.batch = 64
        settings = replace(SETTINGS, now=clock, batches=BatchSettings(**(QUICK | limits)))
        endpoints = Services(self.source, TOKENIZER, settings, store=MemoryStore()).endpoints
        self.store = store
        self.files = FileService(store, settings)
        self.batches = BatchService(store, endpoints, self.source, settings)

    async def upload(self, content):
        upload = self.files.upload("ann")
        await upload.write(content)
        return (await upload.finish("in.jsonl", None)).id

    async def start(self, count, window="24h"):
        body = BatchRequest(
            input_file_id=await self.upload(lines(count)), endpoint=CHAT, completion_window=window
        )
        return (await self.batches.create(body, ANN)).id

    async def batch(self, batch_id):
        return await self.batches.retrieve("ann", batch_id)

    async def over(self, batch_id):
        while not (batch := await self.batch(batch_id)).is_over:
            await asyncio.sleep(0.002)
        return batch

    async def rows(self, file_id):
        file = await self.files.get("ann", file_id)
        return [
            json.loads(line) for line in b"".join([p async for p in self.files.content(file)]).splitlines()
        ]


class LetPass:
    """A gate that so many requests pass, until it is opened."""

    def __init__(self, count):
        self.count = count
        self.passed = set()

    async def __call__(self, request):
        while request.id not in self.passed and len(self.passed) >= self.count:
            await asyncio.sleep(0.005)
        self.passed.add(request.id)

    def open(self):
        self.count = 1 << 30


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def process(tmp_path, clock):
    """process(**limits): a process's time, from its start to its end."""

    @asynccontextmanager
    async def begin(**limits):
        store = SqliteBatchStore(tmp_path / "batches", now=clock)
        bench = Bench(store, clock, **limits)
        await bench.batches.resume()
        try:
            yield bench
        finally:
            await bench.batches.close()
            store.close()

    return begin


async def test_a_batch_goes_on_in_the_next_process(process):
    """And in the one after that; nothing is asked again that has a result."""
    asked = []
    async with process(concurrency=3) as bench:
        bench.source.gate = LetPass(7)
        batch_id = await bench.start(30)
        while (await bench.batch(batch_id)).request_counts.completed < 7:
            await asyncio.sleep(0.002)
    async with process(concurrency=3) as bench:
        assert (await bench.batch(batch_id)).status == "in_progress"
        bench.source.gate = LetPass(5)
        while (await bench.batch(batch_id)).request_counts.completed < 12:
            await asyncio.sleep(0.002)
        asked.append(len(bench.source.seen))
    async with process() as bench:
        batch = await bench.over(batch_id)
        asked.append(len(bench.source.seen))
        assert batch.status == "completed"
        assert batch.request_counts.completed == 30
        rows = await bench.rows(batch.output_file_id)
        assert [row["custom_id"] for row in rows] == [f"n{number}" for number in range(30)]
        assert batch.usage.total_tokens == sum(r["response"]["body"]["usage"]["total_tokens"] for r in rows)
    assert asked[0] <= 5 + 3
    assert asked[1] == 18
    async with process() as bench:
        assert await bench.batch(batch_id) == batch


@pytest.mark.parametrize("status", ["validating", "finalizing", "cancelling"])
async def test_every_state_is_one_to_start_from(process, status):
    async with process() as bench:
        batch_id = await bench.start(3)
        batch = await bench.over(batch_id)
        stored = await bench.store.batch("ann", batch_id)
        for file in (batch.output_file_id, batch.error_file_id):
            if file is not None and status == "validating":
                await bench.store.delete("ann", file)
        before = batch.model_copy(
            update={"status": status, "output_file_id": None, "error_file_id": None, "completed_at": None}
        )
        await bench.store.put(replace(stored, body=before.model_dump_json().encode(), active=True))
    async with process() as bench:
        batch = await bench.over(batch_id)
        assert batch.status == ("cancelled" if status == "cancelling" else "completed")
        assert batch.request_counts.model_dump() == {"total": 3, "completed": 3, "failed": 0}
        assert len(await bench.rows(batch.output_file_id)) == 3


async def test_a_window_ends(process, clock):
    async with process() as bench:
        bench.source.gate = LetPass(4)
        batch_id = await bench.start(1200, window="2h")
        while (await bench.batch(batch_id)).request_counts.completed < 4:
            await asyncio.sleep(0.002)
        clock.now += 2 * 3600
        batch = await bench.over(batch_id)
        assert (batch.status, batch.expired_at) == ("expired", 1000 + 7200)
        assert batch.request_counts.model_dump() == {"total": 1200, "completed": 4, "failed": 1196}
        assert len(await bench.rows(batch.output_file_id)) == 4
        errors = await bench.rows(batch.error_file_id)
        assert {row["error"]["code"] for row in errors} == {"batch_expired"}
        assert len({row["custom_id"] for row in errors}) == 1196
        assert bench.source.open == set()


async def test_an_input_that_expires_is_kept_while_it_is_read(process, clock):
    async with process() as bench:
        bench.source.gate = LetPass(1)
        batch_id = await bench.start(5, window="99d")
        while not (await bench.batch(batch_id)).request_counts.completed:
            await asyncio.sleep(0.002)
        clock.now += 40 * 86400
        await bench.upload(b"")  # clears away what has expired
    async with process() as bench:
        batch = await bench.over(batch_id)
        assert batch.request_counts.completed == 5
        await bench.upload(b"")
        assert await bench.store.file("ann", batch.input_file_id) is None


async def test_a_batch_is_cancelled_before_it_has_begun(process):
    async with process() as bench:
        batch_id = await bench.start(10_000)
        await bench.batches.cancel("ann", batch_id)
        batch = await bench.over(batch_id)
        assert batch.status == "cancelled"
        assert batch.output_file_id is batch.error_file_id is None
        assert bench.source.seen == []


async def test_refusals_that_time_mends_are_waited_for(process):
    async with process(concurrency=2) as bench:
        faults = [OverloadedError("busy", retry_after=0.01), UnavailableError("starting")] * 4

        async def gate(request):
            if faults:
                raise faults.pop()

        bench.source.gate = gate
        batch = await bench.over(await bench.start(5))
        assert batch.request_counts.model_dump() == {"total": 5, "completed": 5, "failed": 0}


async def test_a_request_with_which_the_engine_fails_has_failed(process):
    async with process() as bench:
        bench.source.script = lambda request: [
            TokenEvent(request.id, finish=FinishReason.ERROR, error="the engine choked")
        ]
        batch = await bench.over(await bench.start(2))
        assert batch.status == "completed"
        assert batch.output_file_id is None
        first, _ = await bench.rows(batch.error_file_id)
        assert first["response"]["status_code"] == 500
        assert "choked" in first["response"]["body"]["error"]["message"]


async def test_a_fault_of_ours_is_one_line(process, caplog):
    async with process() as bench:

        async def gate(request):
            raise ValueError("a secret")

        bench.source.gate = gate
        batch = await bench.over(await bench.start(1))
        assert "secret" not in str(await bench.rows(batch.error_file_id))
        assert "a secret" in caplog.text


async def test_an_engine_that_is_gone_fails_no_line(process):
    """The process will end; the next one answers what is left."""
    async with process() as bench:

        async def gate(request):
            bench.source.limits_error = EngineError("it stays down")
            raise EngineError("it stays down")

        bench.source.gate = gate
        batch_id = await bench.start(3)
        while not bench.source.seen:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.05)
        assert (await bench.batch(batch_id)).request_counts.failed == 0
    async with process() as bench:
        assert (await bench.over(batch_id)).request_counts.completed == 3


async def test_it_waits_for_an_engine_that_starts(process):
    async with process() as bench:
        bench.source.limits_error = UnavailableError("starting")
        batch_id = await bench.start(1)
        await asyncio.sleep(0.05)
        assert bench.source.seen == []
        bench.source.limits_error = None
        assert (await bench.over(batch_id)).status == "completed"


class Faulty:
    """A store whose writes of a kind fail while `failing`."""

    def __init__(self, store, *names):
        self._store = store
        self._names = names
        self.failing = False

    def __getattr__(self, name):
        method = getattr(self._store, name)
        if name not in self._names:
            return method

        async def write(*args):
            if self.failing:
                raise StoreError("database or disk is full")
            return await method(*args)

        return write


async def test_a_disk_that_is_full_for_a_while_costs_nothing(process, clock):
    async with process() as bench:
        store = Faulty(bench.store, "record", "put")
        again = Bench(store, clock, store_patience_seconds=250)
        again.source.gate = LetPass(2)
        batch_id = await again.start(6)
        while (await again.batch(batch_id)).request_counts.completed < 2:
            await asyncio.sleep(0.002)
        store.failing = True
        again.source.gate.open()
        await asyncio.sleep(0.05)
        assert (await again.batch(batch_id)).request_counts.completed == 2
        store.failing = False
        batch = await again.over(batch_id)
        assert len(await again.rows(batch.output_file_id)) == 6
        assert len(again.source.seen) == 6
        await again.batches.close()


@pytest.mark.parametrize("names", [("record",), ("record", "put")])
async def test_a_disk_that_stays_full_ends_the_batch_and_says_why(process, clock, names):
    async with process() as bench:
        store = Faulty(bench.store, *names)
        again = Bench(store, clock)
        again.source.gate = LetPass(2)
        batch_id = await again.start(6)
        while (await again.batch(batch_id)).request_counts.completed < 2:
            await asyncio.sleep(0.002)
        store.failing = True
        again.source.gate.open()
        batch = await again.over(batch_id)
        assert batch.status == "failed"
        assert batch.errors.data[0].code == "storage_failed"
        assert "full" in batch.errors.data[0].message
        with pytest.raises(StoreError) if "put" in names else nullcontext():
            await again.start(1)
        store.failing = False
        assert (await again.batch(batch_id)).status == "failed"
        assert (await bench.store.batch("ann", batch_id)).active is False
        assert len(await again.rows(batch.output_file_id)) == 2, "what was answered is there"
        await again.batches.close()


async def test_batches_of_many_owners_share_what_there_is(process):
    async with process(concurrency=4, max_active=2) as bench:
        bench.source.gate = LetPass(0)
        first = [await bench.start(20), await bench.start(20)]
        with pytest.raises(OverloadedError, match="2 batches"):
            await bench.start(1)
        while len(bench.source.seen) < 4:
            await asyncio.sleep(0.002)
        assert {request.priority for request in bench.source.seen} == {BACKGROUND}
        for batch_id in first:
            await bench.batches.cancel("ann", batch_id)
            await bench.over(batch_id)
        assert len(bench.source.seen) <= 8
        bench.source.gate = None
        assert (await bench.over(await bench.start(3))).status == "completed"


async def test_a_key_of_a_low_place_stands_behind_others(process):
    async with process() as bench:
        body = BatchRequest(input_file_id=await bench.upload(lines(1)), endpoint=CHAT, completion_window="1d")
        for priority in (5, -5):
            batch = await bench.batches.create(body, Caller("ann", priority))
            await bench.over(batch.id)
        assert [request.priority for request in bench.source.seen] == [BACKGROUND + 5, BACKGROUND]
