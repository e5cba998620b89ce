"""CI's share of spoiled Harmony streams. Ten thousand: `python tests/fakes/mutated_streams.py 10000`."""

import asyncio
import random

import pytest
from mosso_fakes import SETTINGS
from mutated_streams import Shown, check, examine_all, stream_of

from mosso.check import server as examined

SHARE = 250


@pytest.mark.parametrize("part", range(4))
def test_nothing_is_lost(server, part, monkeypatch):
    monkeypatch.setattr(examined, "CONNECT_SECONDS", 120.0)  # a busy machine may pause amid it
    seeds = range(part * SHARE, (part + 1) * SHARE)
    script = server.source.script
    try:
        assert asyncio.run(examine_all(server.url, SETTINGS.model, server.source, seeds)) == SHARE
    finally:
        server.source.script = script
    assert not server.source.open


def test_a_loss_would_be_seen():
    tokens = stream_of(random.Random(3))
    with pytest.raises(AssertionError):
        check(tokens, Shown(("",), "", "", "stop"))
