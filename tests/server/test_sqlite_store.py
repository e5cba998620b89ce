"""The store of responses, on real files."""

import sqlite3
import subprocess
import sys

import pytest

from mosso.api.responses_store import StoredResponse, StoreError
from mosso.server.sqlite_store import SqliteStore


def record(name, body=b"{}", created=100, scope="", previous=None, active=False):
    return StoredResponse(name, scope, created, body, b"[]", previous, active)


@pytest.fixture
def make(tmp_path):
    stores = []

    def build(**options):
        stores.append(SqliteStore(tmp_path / "store.sqlite3", now=lambda: 100.0, **options))
        return stores[-1]

    yield build
    for store in stores:
        store.close()


async def test_what_was_put_is_there_after_a_new_start(make):
    store = make()
    await store.put(record("a", b"1"))
    await store.append("a", 0, [b"x", b"y"])
    await store.put(record("a", b"2"))
    store.close()
    again = make()
    assert await again.get("", "a") == record("a", b"2")
    assert await again.events("", "a", 0) == [b"y"]


async def test_scopes_see_nothing_of_each_other(make):
    store = make()
    await store.put(record("a", scope="mine"))
    await store.append("a", 0, [b"x"])
    assert await store.get("yours", "a") is None
    assert await store.chain("yours", "a") == []
    assert await store.events("yours", "a", -1) == []
    assert not await store.delete("yours", "a")
    assert await store.delete("mine", "a")
    assert await store.events("mine", "a", -1) == []


async def test_a_chain_goes_back_as_far_as_it_is_kept(make):
    store = make()
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        await store.put(record(name, previous=previous))
    assert [kept.id for kept in await store.chain("", "c")] == ["a", "b", "c"]
    await store.delete("", "a")
    assert [kept.id for kept in await store.chain("", "c")] == ["b", "c"]


async def test_the_oldest_go_when_there_is_too_much(make):
    store = make(max_bytes=250)
    await store.put(record("running", b"0" * 98, created=1, active=True))
    for number in range(4):
        await store.put(record(f"r{number}", b"0" * 98, created=90 + number))
    assert [await store.get("", f"r{number}") is not None for number in range(4)] == [False] * 3 + [True]
    assert await store.get("", "running") is not None


async def test_the_too_old_go(make):
    store = make(max_age=10)
    await store.put(record("running", created=80, active=True))
    await store.put(record("old", created=80))
    await store.put(record("young", created=95))
    assert await store.get("", "old") is None
    assert await store.get("", "young") is not None
    assert [kept.id for kept in await store.active()] == ["running"]


async def test_a_full_disk_is_an_error_and_ends_when_there_is_room(make):
    store = make()
    await store.put(record("a"))
    store._connection.execute("PRAGMA max_page_count = 1")  # SQLite's own disk-full error
    with pytest.raises(StoreError, match="full"):
        await store.put(record("b", b"0" * 100_000))
    assert await store.get("", "a") is not None
    store._connection.execute("PRAGMA max_page_count = 1000000")
    await store.put(record("b", b"0" * 100_000))
    assert await store.get("", "b") is not None


async def test_a_closed_store_is_an_error(make):
    store = make()
    store.close()
    with pytest.raises(StoreError):
        await store.get("", "a")


def test_a_file_that_is_no_store_is_named(tmp_path):
    path = tmp_path / "text"
    path.write_text("hello, this is certainly no database file" * 100)
    with pytest.raises(StoreError, match="text"):
        SqliteStore(path)


def test_killed_between_two_writes(tmp_path):
    """What put returned for is there whatever ends the process."""
    path = tmp_path / "store.sqlite3"
    program = f"""
import asyncio, os, pathlib, signal
from mosso.api.responses_store import StoredResponse
from mosso.server.sqlite_store import SqliteStore
async def main():
    store = SqliteStore(pathlib.Path({str(path)!r}), now=lambda: 100.0)
    for number in range(20):
        await store.put(StoredResponse(f"r{{number}}", "", 100, b"body", b"[]"))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchone() == (20,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
