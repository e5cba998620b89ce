"""Where `mosso serve` keeps responses."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from openai import BadRequestError, OpenAI

from mosso.api.batches_store import StoredBatch
from mosso.api.responses_store import StoredResponse
from mosso.cli.stores import StoreLimits, default_path, open_batches, open_store
from mosso.core.errors import UsageError

RECORD = StoredResponse("a", "", 2_000_000_000, b"{}", b"[]")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


async def test_what_is_stored_can_be_read_by_its_owner_only(tmp_path):
    path = tmp_path / "open to all" / "store.sqlite"
    path.parent.mkdir(mode=0o755)
    with open_store(path, 8000) as (store, _), open_batches(path, 8000):
        await store.put(RECORD)
        files = [file for file in path.parent.iterdir() if file.suffix != ".lock"]
        assert len(files) == 7, "two databases, each with two files beside it, and a key"
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_a_port_has_a_file_of_its_own():
    with open_store(None, 8000) as (store, sealer):
        await store.put(RECORD)
        sealed = sealer.seal("", "hm")
    with open_store(None, 8000) as (store, sealer):
        assert await store.get("", "a") == RECORD
        assert sealer.open("", sealed) == "hm"
    with open_store(None, 8001) as (store, _):
        assert await store.get("", "a") is None
    key = default_path(8000).with_name("responses-8000.sqlite3.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


async def test_limits_of_age_and_size(tmp_path):
    """A response of long ago goes; of those that are too much together, the oldest."""
    long_ago = replace(RECORD, created=int(time.time()) - 3600)
    with open_store(tmp_path / "a", 1, StoreLimits(days=0.01)) as (store, _):
        await store.put(long_ago)
        await store.put(replace(RECORD, id="b"))
        assert await store.get("", "a") is None
    with open_store(tmp_path / "b", 1, StoreLimits(days=1, size=100_000)) as (store, _):
        await store.put(replace(long_ago, body=b"x" * 80_000))
        await store.put(replace(RECORD, id="b", body=b"x" * 80_000))
        assert await store.get("", "a") is None
        assert await store.get("", "b") is not None


async def test_any_free_port_keeps_nothing(tmp_path):
    with open_store(None, 0) as (store, _):
        await store.put(RECORD)
        assert await store.get("", "a") == RECORD
    assert not (tmp_path / "state").exists()


async def test_batches_lie_beside_the_responses(tmp_path):
    batch = StoredBatch("b", "", b"{}", True, "file")
    for port in (8000, 8001):
        with open_batches(None, port) as store:
            assert await store.active() == []
            await store.put(batch)
    with open_batches(None, 8001) as store:
        assert await store.active() == [batch]
    assert default_path(8000).with_name("responses-8000.sqlite3.batches").exists()
    with open_batches(None, 0) as store:
        assert await store.active() == []


def test_two_servers_do_not_share_their_batches(tmp_path, caplog):
    path = tmp_path / "store"
    refused = pytest.raises(UsageError, match=r"cannot keep files in .*another server uses it")
    with open_batches(path, 1), refused, open_batches(path, 2):
        raise AssertionError
    with open_batches(None, 1), open_batches(None, 1):
        assert "do not outlive this server" in caplog.text


def test_two_servers_do_not_share_a_file(tmp_path, caplog):
    path = tmp_path / "store"
    refused = pytest.raises(UsageError, match="another server uses it")
    with open_store(path, 1), refused, open_store(path, 2):
        raise AssertionError
    with open_store(None, 1), open_store(None, 1):
        assert "in memory only" in caplog.text


def test_a_damaged_key_is_named(tmp_path):
    path = tmp_path / "store"
    path.with_name("store.key").write_text("short")
    with pytest.raises(UsageError, match="key"), open_store(path, 1):
        raise AssertionError


@contextmanager
def serving(store, log):
    """`mosso serve` in a process of its own; killed at the end, as a machine's failure would."""
    arguments = ["serve", "--port", "0", "--store", str(store), "--log-level", "warning"]
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mosso.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, log.read_text()
        with OpenAI(base_url=f"{found.group()}/v1", api_key="none", max_retries=0, timeout=60) as client:
            yield client
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_kill_9_loses_nothing_that_was_answered(tmp_path):
    store, log = tmp_path / "store", tmp_path / "log"
    with serving(store, log) as client:
        first = client.responses.create(input="What is 2 + 2?", include=["reasoning.encrypted_content"])
        assert first.status == "completed"
        assert first.output_text
    with serving(store, log) as client:
        assert client.responses.retrieve(first.id) == first
        again = client.responses.create(input="And 3 + 3?", previous_response_id=first.id)
        assert again.output_text
        items = [item.model_dump(exclude_none=True) for item in first.output]
        assert client.responses.create(input=[*items, {"role": "user", "content": "And 1 + 1?"}]).output_text
        with pytest.raises(BadRequestError):
            client.responses.create(input="hi", tools=[{"type": "mcp"}])
        with client.responses.create(
            input="Count to a hundred.", background=True, stream=True, extra_body={"temperature": 2}
        ) as endless:
            running = next(iter(endless)).response
    with serving(store, log) as client:
        ended = client.responses.retrieve(running.id)
        assert ended.status in ("completed", "failed", "incomplete")  # whichever came first, never silence
        with client.responses.retrieve(running.id, stream=True) as stream:
            assert list(stream)[-1].type == f"response.{ended.status}"
    warned = [line for line in log.read_text().splitlines() if "it has failed" not in line]
    assert warned == []
