"""A short stretch of the chaos that `python tests/demo/chaos.py 600` makes for ten minutes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from chaos import Chaos


def test_nothing_is_lost_and_nobody_is_told_nonsense(serving_demo, tmp_path):
    flags = ("--store", str(tmp_path / "store.db"), "--log-level", "error")
    with serving_demo(tmp_path / "log", *flags) as server:
        chaos = Chaos(server.url, server.process.pid, seconds=12.0, clients=6)
        asyncio.run(chaos.run())
    assert chaos.wrong == []
    assert chaos.counts["answered"]
    assert chaos.counts["kills"]
    assert chaos.stored
