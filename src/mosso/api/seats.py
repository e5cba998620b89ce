"""Bounded concurrency, shared fairly: many groups of work, so many pieces of it under way at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Group = tuple[str, str]
"""Who works, and for what: seats are shared between owners first, then between the works of one."""


class Seats:
    """`total` seats. A free one goes to the waiting group whose owner, then which itself, has the fewest."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._owners: Counter[str] = Counter()
        self._groups: Counter[Group] = Counter()
        self._waiting: list[tuple[Group, asyncio.Future[None]]] = []  # empty while a seat is free

    async def take(self, group: Group) -> Seat:
        if self._free:
            self._free -= 1
            self._count(group, 1)
            return Seat(self, group)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((group, future))
        try:
            await future  # whoever wakes it has counted its seat
        except asyncio.CancelledError:
            if not future.cancelled():
                self.left(group)
            raise
        finally:
            self._waiting = [entry for entry in self._waiting if entry[1] is not future]
        return Seat(self, group)

    def left(self, group: Group) -> None:
        """One seat of the group is free again."""
        self._count(group, -1)
        waiting = [entry for entry in self._waiting if not entry[1].done()]
        if not waiting:
            self._free += 1
            return
        next_group, future = min(waiting, key=lambda entry: self._load(entry[0]))
        self._count(next_group, 1)
        future.set_result(None)

    def _load(self, group: Group) -> tuple[int, int]:
        return self._owners[group[0]], self._groups[group]

    def _count(self, group: Group, change: int) -> None:
        self._owners[group[0]] += change
        self._groups[group] += change
        if not self._groups[group]:
            del self._groups[group]
        if not self._owners[group[0]]:
            del self._owners[group[0]]


class Seat:
    """One seat that was taken."""

    def __init__(self, seats: Seats, group: Group) -> None:
        self._seats = seats
        self._group = group
        self._held = True

    def leave(self) -> None:
        """Once is enough."""
        if self._held:
            self._held = False
            self._seats.left(self._group)

    async def away(self, seconds: float) -> None:
        """Somebody else may sit here for so long; then wait for a seat again."""
        self.leave()
        await asyncio.sleep(seconds)
        await self._seats.take(self._group)
        self._held = True


async def work_through(
    items: AsyncIterable[T], work: Callable[[T, Seat], Coroutine[Any, Any, None]], seats: Seats, group: Group
) -> None:
    """`work` on every item, each in a seat; an item is read only once there is a seat for it.

    No more items are in hand than there are seats, those that are `away` included. What `work` raises ends it
    all, as an ExceptionGroup.
    """
    reader = aiter(items)
    in_hand = asyncio.Semaphore(seats.total)

    def begin(item: T, seat: Seat) -> None:
        def ended(
            _: object,
        ) -> None:  # a callback: a task that is cancelled before it begins runs no `finally`
            seat.leave()
            in_hand.release()

        tasks.create_task(work(item, seat)).add_done_callback(ended)

    async with asyncio.TaskGroup() as tasks:
        while True:
            await in_hand.acquire()
            seat = await seats.take(group)
            try:
                begin(await anext(reader), seat)
            except BaseException as error:
                seat.leave()
                if isinstance(error, StopAsyncIteration):
                    return
                raise
