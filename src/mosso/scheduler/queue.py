"""Sequences in the order they are served: those that run by rank, those that wait by priority and fairly."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from operator import attrgetter

from mosso.scheduler.sequence import Sequence

Share = tuple[int, str]  # priority and tenant
_rank = attrgetter("rank")


class Ranked:
    """Sequences sorted by rank, best first."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    @property
    def best(self) -> Sequence | None:
        return self._sequences[0] if self._sequences else None

    @property
    def worst(self) -> Sequence | None:
        return self._sequences[-1] if self._sequences else None

    def add(self, sequence: Sequence) -> None:
        insort(self._sequences, sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        at = bisect_left(self._sequences, sequence.rank, key=_rank)
        assert self._sequences[at] is sequence
        del self._sequences[at]


class Waiting:
    """What waits: the best priority first; within one, fairly between tenants (see FairQueue)."""

    def __init__(self) -> None:
        self._queues: dict[int, FairQueue] = {}  # by priority; none is empty

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Sequence]:
        """By priority; those that ran before come first."""
        for _, queue in sorted(self._queues.items()):
            yield from queue

    @property
    def best(self) -> Sequence | None:
        return self._queues[min(self._queues)].best if self._queues else None

    def count(self, priority: int) -> int:
        """How many wait with this priority or a better one."""
        return sum(len(queue) for at, queue in self._queues.items() if at <= priority)

    def add(self, sequence: Sequence) -> None:
        queue = self._queues.get(sequence.priority)
        if queue is None:
            queue = self._queues[sequence.priority] = FairQueue()
        queue.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        queue = self._queues[sequence.priority]
        queue.remove(sequence)
        if not queue:
            del self._queues[sequence.priority]

    def loads(self) -> dict[Share, tuple[int, int]]:
        """Sequences that wait, and the tokens of their prompts."""
        return {
            (priority, tenant): load
            for priority, queue in self._queues.items()
            for tenant, load in queue.loads.items()
        }

    def charge(self, sequence: Sequence, service: int) -> None:
        """The sequence's tenant was given so much service, while others of its priority may wait."""
        if (queue := self._queues.get(sequence.request.priority)) is not None:
            queue.charge(sequence.request.tenant, service)


class FairQueue:
    """Sequences of one priority that wait. Next is the tenant that has been given the least service.

    Tenants have a counter of service each (virtual token counters: Sheng et al., "Fairness in Serving Large
    Language Models", 2024). One that comes to wait has no credit for the time when it asked for nothing:
    its counter is raised to the least of those who wait. A tenant's own sequences are served as they came.
    Sequences that lost their row stand before all others, in the order in which they were first started.

    The queue lives while somebody waits in it. When nobody does, everybody has what it wants, and what was
    before is forgotten.
    """

    def __init__(self) -> None:
        self._resumed = Ranked()
        self._tenants: dict[str, deque[Sequence]] = {}  # none is empty
        self._service: dict[str, int] = {}  # of those who wait, and of those who did
        self._level = 0  # the least counter of those who waited when one of them last left
        self.loads: dict[str, tuple[int, int]] = {}
        """By tenant: how many wait, and the tokens of their prompts."""

    def __len__(self) -> int:
        return sum(number for number, _ in self.loads.values())

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._resumed
        for tenant in sorted(self._tenants, key=self._turn):
            yield from self._tenants[tenant]

    @property
    def best(self) -> Sequence | None:
        if self._resumed.best is not None or not self._tenants:
            return self._resumed.best
        return self._tenants[min(self._tenants, key=self._turn)][0]

    def _turn(self, tenant: str) -> tuple[int, tuple[int, int]]:
        """Of equals the one whose sequence came first."""
        return self._service[tenant], self._tenants[tenant][0].rank

    def _least(self) -> int:
        return min((self._service[tenant] for tenant in self._tenants), default=self._level)

    def add(self, sequence: Sequence) -> None:
        self._count(sequence, 1)
        if sequence.started:
            self._resumed.add(sequence)
            return
        tenant = sequence.tenant
        if tenant not in self._tenants:
            self._service[tenant] = max(self._service.get(tenant, 0), self._least())
            self._tenants[tenant] = deque()
        self._tenants[tenant].append(sequence)

    def remove(self, sequence: Sequence) -> None:
        self._count(sequence, -1)
        if sequence.started:
            self._resumed.remove(sequence)
            return
        self._level = self._least()
        line = self._tenants[sequence.tenant]
        line.remove(sequence)
        if not line:
            del self._tenants[sequence.tenant]

    def charge(self, tenant: str, service: int) -> None:
        before = self._service.get(tenant)
        self._service[tenant] = (self._least() if before is None else before) + service

    def _count(self, sequence: Sequence, change: int) -> None:
        number, tokens = self.loads.pop(sequence.tenant, (0, 0))
        if number + change:
            now = number + change, tokens + change * len(sequence.request.prompt)
            self.loads[sequence.tenant] = now
