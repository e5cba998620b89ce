"""The source that takes what is used from its tenant's allowance: all that is used, and nothing else."""

import asyncio
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mosso_fakes import ScriptedSource

from mosso.core.errors import OverloadedError, UnauthorizedError, UnavailableError
from mosso.core.requests import Request, SamplingParams
from mosso.server.allowances import Limits
from mosso.server.keys import FixedKeys, Key
from mosso.server.tenants import MeteredSource, Tenants
from mosso.server.usage_store import UsageStore

KEY = Key("ann", (sha256(b"ann").digest(),), limits=Limits(tokens_per_minute=1_000_000))


@pytest.fixture(scope="module")
def usage():
    store = UsageStore()
    yield store
    store.close()


@pytest.fixture(scope="module")
def fresh(usage):
    """A source and its tenants, of whom nobody has used anything."""

    def build():
        source = ScriptedSource(lambda request: [1] * 50)
        tenants = Tenants(FixedKeys(KEY), usage, lambda: 0.0)
        usage.totals.clear()
        return source, tenants, MeteredSource(source, tenants)

    return build


def request(number: int, prompt: int, tokens: int, choice: int = 0) -> Request:
    sampling = SamplingParams(max_tokens=tokens)
    return Request(f"r{number}", (1,) * prompt, sampling, tenant="ann", choice=choice)


def left(tenants: Tenants) -> int:
    return int(dict(tenants.allowance("ann").headers())[b"x-ratelimit-remaining-tokens"])


async def read(metered: MeteredSource, asked: Request, events: int | None) -> int:
    """How many tokens came, when it is closed after so many events."""
    stream, tokens = metered.stream(asked), 0
    try:
        while events is None or events > 0:
            tokens += len((await anext(stream)).tokens)
            events = None if events is None else events - 1
    except StopAsyncIteration:
        pass
    finally:
        await stream.aclose()
    return tokens


streams = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 50), st.none() | st.integers(1, 60), st.booleans()),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(streams)
def test_whatever_ends_a_stream_what_it_used_is_counted_and_no_more(fresh, streams):
    source, tenants, metered = fresh()

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(
            read(metered, request(number, prompt, tokens, choice=int(not first)), events)
            for number, (prompt, tokens, events, first) in enumerate(streams)
        ))  # fmt: skip

    generated = asyncio.run(all_at_once())
    used = sum(prompt for prompt, _, _, first in streams if first) + sum(generated)
    assert tenants.allowance("ann").used == used
    assert left(tenants) == 1_000_000 - used
    assert source.open == set()


async def test_a_stream_that_is_left_before_it_gave_anything_costs_its_prompt(fresh):
    source, tenants, metered = fresh()
    begun = asyncio.Event()

    async def never(asked):
        begun.set()
        await asyncio.sleep(60)

    source.gate = never
    task = asyncio.create_task(read(metered, request(0, 100, 5), None))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert tenants.allowance("ann").used == 100, "the engine may have read it all"


@pytest.mark.parametrize("fault", [OverloadedError("full"), UnavailableError("no engine")])
async def test_what_the_engine_refuses_costs_nothing(fresh, fault):
    source, tenants, metered = fresh()
    source.start_error = fault
    with pytest.raises(type(fault)):
        await read(metered, request(0, 100, 5), None)
    assert tenants.allowance("ann").used == 0
    assert left(tenants) == 1_000_000


async def test_one_whose_key_is_gone_begins_nothing_more(fresh):
    source, _, metered = fresh()
    asked = Request("r", (1, 2), SamplingParams(max_tokens=3), tenant="gone")
    with pytest.raises(UnauthorizedError, match="'gone' has no API key any more"):
        await read(metered, asked, None)
    assert source.seen == []


async def test_what_was_begun_before_there_were_keys_goes_on(fresh):
    _, tenants, metered = fresh()
    assert await read(metered, Request("r", (1, 2), SamplingParams(max_tokens=3)), None) == 3
    assert tenants.allowance("").used == 5


async def test_everything_else_is_passed_on(fresh):
    source, _, metered = fresh()
    assert metered.limits == source.limits
    assert await metered.stats() == source.stats_value
    await metered.abort("r")
    await metered.end_thinking("r")
    await metered.close()
    assert source.limits_error is not None
