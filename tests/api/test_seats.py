"""Bounded, fair concurrency."""

import asyncio
from collections import Counter

import pytest

from mosso.api.seats import Seats, work_through


async def numbers(count):
    for number in range(count):
        yield number


async def test_never_more_than_there_are_seats_and_every_item_once():
    seats, seen, under_way, most = Seats(3), [], 0, 0

    async def work(item, seat):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        seen.append(item)

    await work_through(numbers(20), work, seats, ("a", "1"))
    assert sorted(seen) == list(range(20))
    assert most == 3


async def test_a_free_seat_goes_to_the_owner_that_has_the_fewest():
    seats, sitting, gates = Seats(4), Counter(), []

    async def work(group):
        seat = await seats.take(group)
        sitting[group] += 1
        gate = asyncio.Event()
        gates.append(gate)
        await gate.wait()
        sitting[group] -= 1
        seat.leave()

    tasks = [asyncio.create_task(work(("ann", name))) for name in "1112222"]
    await asyncio.sleep(0)
    assert sitting == {("ann", "1"): 3, ("ann", "2"): 1}
    tasks += [asyncio.create_task(work(("bob", "3"))) for _ in range(3)]
    await asyncio.sleep(0)
    for gate in gates[:3]:  # ann's first batch leaves: bob has none, then both have some
        gate.set()
        for _ in range(10):  # turns of the loop: who leaves, who takes the seat
            await asyncio.sleep(0)
    assert sitting[("bob", "3")] == 2
    assert sitting[("ann", "2")] == 2
    while not all(task.done() for task in tasks):
        for gate in gates:
            gate.set()
        await asyncio.sleep(0)
    for _ in range(4):
        await asyncio.wait_for(seats.take(("x", "x")), 1)


async def test_who_is_away_leaves_the_seat_to_others():
    seats, order = Seats(1), []

    async def work(item, seat):
        order.append(("begins", item))
        if item == 0:
            await seat.away(0.01)
        order.append(("ends", item))

    async def others(item, seat):
        order.append(("other", item))

    await asyncio.gather(
        work_through(numbers(2), work, seats, ("a", "1")), work_through(numbers(1), others, seats, ("b", "2"))
    )
    assert order.index(("other", 0)) < order.index(("ends", 0))
    assert order.index(("ends", 0)) < order.index(("begins", 1)), "one item in hand, as there is one seat"


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
async def test_cancelling_frees_every_seat(rounds):
    """Whatever each task was about to do then: to begin, to wait for a seat, to sit, to be away."""
    seats = Seats(2)

    async def work(item, seat):
        if item % 2:
            await seat.away(0)
        await asyncio.Event().wait()

    groups = [
        asyncio.create_task(work_through(numbers(9), work, seats, ("a", str(name)))) for name in range(3)
    ]
    for _ in range(rounds):
        await asyncio.sleep(0)
    for group in groups:
        group.cancel()
    await asyncio.gather(*groups, return_exceptions=True)
    for _ in range(2):
        await asyncio.wait_for(seats.take(("x", "x")), 1)


async def test_a_fault_ends_it_all():
    seats = Seats(2)

    async def work(item, seat):
        if item == 3:
            raise ValueError("three")
        await asyncio.sleep(0)

    with pytest.raises(ExceptionGroup) as failed:
        await work_through(numbers(100), work, seats, ("a", "1"))
    assert str(failed.value.exceptions[0]) == "three"
    for _ in range(2):
        await asyncio.wait_for(seats.take(("x", "x")), 1)
