"""Usage of keys on disk: after a restart, after a death, over a full disk."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from mosso.api.responses_store import StoreError
from mosso.server.usage_store import UsageStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "usage.sqlite3"


def totals(path):
    store = UsageStore(path)
    store.close()
    return store.totals


def test_totals_are_there_after_a_restart(path):
    store = UsageStore(path)
    assert store.totals == {}
    for total in range(1, 200):
        store.put("ann", total)
    store.put("bob", 7)
    store.close()
    assert totals(path) == {"ann": 199, "bob": 7}


def test_what_was_written_survives_a_killed_process(path):
    script = f"""
import pathlib, time
from mosso.server.usage_store import UsageStore
store = UsageStore(pathlib.Path({str(path)!r}))
store.put("ann", 42)
store._database._thread.submit(int).result()  # the thread has come past the write
print("written", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert totals(path) == {"ann": 42}


def test_a_failed_write_is_healed_by_the_next(path, caplog):
    store = UsageStore(path)
    database = store._database
    database._thread.submit(database.connection.execute, "PRAGMA query_only = ON").result()
    store.put("ann", 1)
    database._thread.submit(int).result()
    assert "usage of API keys is not written" in caplog.text
    database._thread.submit(database.connection.execute, "PRAGMA query_only = OFF").result()
    store.put("bob", 2)
    store.close()
    assert totals(path) == {"ann": 1, "bob": 2}


def test_a_file_that_is_no_database(path):
    path.write_text("no database, but long enough to be looked at by SQLite as if it were one" * 100)
    with pytest.raises(StoreError, match="not a database"):
        UsageStore(path)


def test_memory_needs_no_file():
    store = UsageStore()
    store.put("ann", 1)
    store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        store._database.rows("SELECT 1")


def test_what_comes_after_the_end_is_no_error(path):
    store = UsageStore(path)
    store.put("ann", 1)
    store.close()
    store.put("ann", 2)
    assert totals(path) == {"ann": 1}
