"""A batch on the demo's server, which is killed, and ended, while the batch runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from openai import OpenAI
from start_code import at_start

CHAT = "/v1/chat/completions"
COUNT = 40


def lines():
    return "".join(
        json.dumps(
            {
                "custom_id": f"sum-{n}",
                "method": "POST",
                "url": CHAT,
                "body": {
                    "messages": [{"role": "user", "content": f"What is {n} + {n + 1}?"}],
                    "temperature": 0,
                    "max_tokens": 100,
                },
            }
        )
        + "\n"
        for n in range(COUNT)
    ).encode()


GATE = """
import asyncio, os
from contextlib import aclosing
from mosso.engine.supervisor import Supervisor
stream, begun = Supervisor.stream, []
async def held(self, request):
    begun.append(request)
    if len(begun) > {requests}:
        while not os.path.exists({go!r}):
            await asyncio.sleep(0.02)
    async with aclosing(stream(self, request)) as events:
        async for event in events:
            yield event
Supervisor.stream = held
"""


@contextmanager
def life(store, requests):
    """One process: (process, client). Whoever does not kill it ends it with SIGTERM.

    More than so many requests wait for a file `go` beside the store: however long a test stands still, the
    batch is not over before.
    """
    gate = GATE.format(requests=requests, go=str(store.with_name("go")))
    path = at_start(store.parent, "mosso.cli", gate)
    command = [
        sys.executable,
        "-m",
        "mosso.cli",
        "serve",
        "demo",
        "--port",
        "0",
        "--store",
        str(store),
        "--drain",
        "0",
    ]
    with store.with_name("log").open("a") as log:
        process = subprocess.Popen(
            [*command, "--max-rows", "4"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        try:
            line = process.stdout.readline()
            url = re.search(r"http://\S+", line)
            assert url, store.with_name("log").read_text()
            with OpenAI(base_url=f"{url.group().rstrip('/')}/v1", api_key="none", timeout=200) as client:
                yield process, client
        finally:
            process.terminate()
            process.wait(120)
            process.stdout.close()


def until(client, batch_id, done):
    while not done(batch := client.batches.retrieve(batch_id)):
        time.sleep(0.01)
    return batch


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("batches") / "store.sqlite3"


def test_no_line_is_lost_or_repeated_by_kill_9(store):
    with life(store, 10) as (process, client):
        file = client.files.create(file=("sums.jsonl", lines()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        until(client, batch.id, lambda b: b.request_counts.completed >= 5)
        os.kill(process.pid, signal.SIGKILL)
    with life(store, 15) as (process, client):
        assert client.batches.retrieve(batch.id).status == "in_progress"
        until(client, batch.id, lambda b: b.request_counts.completed >= 15)
    with life(store, 0) as (process, client):
        assert client.batches.retrieve(batch.id).status == "in_progress"
        store.with_name("go").touch()
        done = until(client, batch.id, lambda b: b.status == "completed")
        assert done.request_counts.model_dump() == {"total": COUNT, "completed": COUNT, "failed": 0}
        rows = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
        assert [row["custom_id"] for row in rows] == [f"sum-{n}" for n in range(COUNT)]
        answers = [row["response"]["body"]["choices"][0]["message"]["content"] for row in rows]
        right = sum(f"= {2 * n + 1}." in answer for n, answer in enumerate(answers))
        assert right > COUNT * 0.8
        used = sum(row["response"]["body"]["usage"]["total_tokens"] for row in rows)
        assert done.usage.total_tokens == used
        assert [batch.id for batch in client.batches.list()] == [done.id]
