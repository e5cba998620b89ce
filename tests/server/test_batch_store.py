"""The store of files and batches, on real files."""

import pytest

from mosso.api.batches_store import PIECE, StoredBatch, StoredFile, StoredResult
from mosso.api.responses_store import StoreError
from mosso.api.usage import TokenCounts
from mosso.core.errors import RequestError
from mosso.server.batch_store import SqliteBatchStore
from mosso.server.database import MEMORY, Database

USED = TokenCounts(4, 1, 3, 2)


def file(name, **fields):
    return StoredFile(name, "ann", 100, "in.jsonl", **({"purpose": "batch"} | fields))


def batch(name, active=True, body=b"{}"):
    return StoredBatch(name, "ann", body, active, "file-in", 3, 60)


def result(number, kind="output", line=b"x\n"):
    return StoredResult(number, kind, line, USED)


@pytest.fixture
def make(tmp_path):
    stores = []

    def build(now=lambda: 100.0, **options):
        stores.append(SqliteBatchStore(tmp_path / "store", now=now, **options))
        return stores[-1]

    yield build
    for store in stores:
        store.close()


async def upload(store, name, *pieces, **fields):
    for number, piece in enumerate(pieces):
        await store.write(name, number, piece)
    return await store.finish(file(name, **fields))


async def content(store, stored):
    return [piece async for piece in store.content(stored)]


async def test_what_was_kept_is_there_after_a_new_start(make):
    store = make()
    kept = await upload(store, "file-in", b"ab", b"c")
    await store.write("file-cut", 0, b"an upload that never ended")
    await store.put(batch("b"))
    await store.record("b", [result(1), result(3, "error")])
    store.close()
    again = make()
    assert kept.size == 3
    assert await again.file("ann", "file-in") == kept
    assert await content(again, kept) == [b"ab", b"c"]
    assert await content(again, file("file-cut")) == []
    assert await again.active() == [batch("b")]
    tally = await again.tally("b")
    assert (tally.numbers, tally.completed, tally.failed) == ({1, 3}, 1, 1)
    assert tally.usage == TokenCounts(8, 2, 6, 4)


async def test_a_request_has_one_result(make):
    store = make()
    await store.put(batch("b"))
    await store.record("b", [result(2, line=b"first\n")])
    await store.record("b", [result(2, "error", b"second\n"), result(1, line=b"zeroth\n")])
    output = file("out", purpose="batch_output", batch="b", kind="output")
    await store.put(batch("b", active=False), [output])
    kept = await store.file("ann", "out")
    assert kept.size == len(b"first\nzeroth\n")
    assert b"".join(await content(store, kept)) == b"zeroth\nfirst\n"


async def test_long_outputs_come_in_pieces(make):
    store = make()
    await store.put(batch("b"))
    line = b"x" * (PIECE // 2) + b"\n"
    await store.record("b", [result(number, line=line) for number in range(9)])
    pieces = await content(store, file("out", batch="b", kind="output"))
    assert b"".join(pieces) == line * 9
    assert max(map(len, pieces)) <= 2 * len(line)


async def test_a_deleted_output_takes_its_results_with_it(make):
    store = make()
    await store.put(batch("b"))
    await store.record("b", [result(1), result(2, "error")])
    outputs = [file(kind, purpose="batch_output", batch="b", kind=kind) for kind in ("output", "error")]
    await store.put(batch("b", active=False), outputs)
    assert not await store.delete("bob", "output")
    assert await store.delete("ann", "output")
    assert (await store.tally("b")).numbers == {2}
    await upload(store, "file-in", b"ab")
    assert await store.delete("ann", "file-in")
    assert await content(store, file("file-in")) == []


async def test_an_input_in_use_stays(make):
    store = make()
    await upload(store, "file-in", b"ab")
    await store.put(batch("b"))
    with pytest.raises(RequestError, match="not over"):
        await store.delete("ann", "file-in")
    await store.put(batch("b", active=False))
    assert await store.delete("ann", "file-in")


async def test_files_expire(make):
    now = [100.0]
    store = make(lambda: now[0])
    kept = await upload(store, "short", b"ab", expires=150)
    await upload(store, "long", b"ab")
    now[0] = 150.0
    assert await store.file("ann", "short") is None
    query = {"purpose": None, "after": None, "newest_first": True, "limit": 9}
    assert [each.id for each in await store.files("ann", **query)] == ["long"]
    assert await content(store, kept) == [b"ab"], "whoever reads it reads on"
    await store.begin("ann")
    assert await content(store, kept) == []


async def test_a_full_disk_undoes_what_was_begun(make):
    store = make()
    await store.put(batch("b"))
    ((pages,),) = await store._do(lambda: store._rows("PRAGMA page_count"))
    await store._do(lambda: store._rows(f"PRAGMA max_page_count = {pages + 2}"))
    with pytest.raises(StoreError, match="full"):
        await store.record("b", [result(1), result(2, line=b"x" * 100_000)])
    assert (await store.tally("b")).numbers == frozenset()
    await store.record("b", [result(1)])
    assert (await store.tally("b")).numbers == {1}


def test_what_is_no_database_is_named(tmp_path):
    (tmp_path / "store").write_text("my notes, which are not a database at all")
    with pytest.raises(StoreError, match="not a database"):
        SqliteBatchStore(tmp_path / "store")


async def test_a_closed_store_says_so(make):
    store = make()
    store.close()
    with pytest.raises(StoreError, match="files"):
        await store.active()


async def test_cursors_stay_in_their_thread():
    database = Database(MEMORY, "CREATE TABLE t (x)", "tests")
    with pytest.raises(AssertionError):
        await database.do(lambda: database.connection.execute("SELECT 1"))
    assert await database.do(lambda: database.rows("SELECT 1")) == [(1,)]
    database.close()
