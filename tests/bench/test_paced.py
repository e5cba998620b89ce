"""What the server costs behind an engine as fast as a GPU's.

It asserts nothing: `pytest -m measure -s tests/bench/test_paced.py`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import paced_engine
import pytest

from mosso.bench.offline import compare
from mosso.bench.serve import Load
from mosso.checkpoint.config import read_config
from mosso.checkpoint.models import find_model
from mosso.cli.bench_overhead import loads_on
from mosso.cli.serving import server_settings, serving
from mosso.engine import client as engine_client
from mosso.engine.settings import EngineSettings
from mosso.server.run import run

PREFILL = 87_000  # tokens a second: 20b on an H200, as the steps below


@pytest.mark.measure
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("users", "step"), [(64, 0.00549), (256, 0.00926)])
def test_measure_the_server_behind_a_fast_engine(users, step, monkeypatch, capsys) -> None:
    model = find_model("demo")
    config = read_config(model.folder)

    def spawn(theirs):
        numbers = (theirs.fileno(), step, PREFILL, config.vocab_size)
        command = [sys.executable, str(Path(paced_engine.__file__)), *map(str, numbers)]
        return subprocess.Popen(command, pass_fds=(theirs.fileno(),))

    monkeypatch.setattr(engine_client, "_spawn", spawn)

    async def measured():
        engine, options = EngineSettings(model.folder), server_settings(model, drain_seconds=0.0)
        async with serving(engine, options) as (app, source), loads_on(app) as over_http:
            taken = []

            async def timed(load):
                start = time.process_time()
                found = await over_http(load)
                taken.append(1e6 * (time.process_time() - start) / found["output_tokens"])
                return found

            load = Load(users, 3 * users, 1024, 256, full=True, completions=True)
            return await compare(source, config, load, timed), taken[-1]

    found, each = run(measured)
    with capsys.disabled():
        print(f"\n{users} users: {found.http_rate:,.0f} tok/s over HTTP, {found.offline_rate:,.0f} offline:"
              f" {found.share:.1%}; {each:.0f} us of the server's CPU time a token;"
              f" between events {found.between_events_ms}")  # fmt: skip
