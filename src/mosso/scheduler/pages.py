"""One group's pages. A page is free, cached or held; the three always add up to the pool.

held    some sequence refers to it; the reference count says how many
cached  nobody refers to it, but its content has a key and can be hit again
free    nobody refers to it and its content means nothing

Cached pages are evicted oldest first, in two queues. `passing` ones were let go while their sequence went on,
and nobody has asked for them since: there are many of them, and few are ever wanted. Where others want it too
they have half of the cache, so that they cannot sweep out what is worth keeping; one that is hit is kept.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class PagePool:
    """Hands out page ids 0 .. total - 1, counts references and remembers contents by key."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = list(range(total - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # least recently released first
        self._passing: OrderedDict[int, None] = OrderedDict()  # likewise
        self._was_hit = [False] * total  # its content has been asked for again
        self._refs = [0] * total
        self._keys: list[bytes | None] = [None] * total
        self._pages: dict[bytes, int] = {}  # key → page, for pages held or cached
        self._taken_in = [-1] * total  # the step that last took the page; only check() reads it

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._kept) + len(self._passing)

    @property
    def num_available(self) -> int:
        """Pages that take() can give."""
        return len(self._free) + self.num_cached

    @property
    def num_held(self) -> int:
        return self.total - self.num_available

    def take(self, count: int, step: int) -> list[int]:
        """Hold `count` pages of no content for a sequence planned in `step`; evicts when none is free.

        The caller has seen that num_available suffices.
        """
        return [self._take_one(step) for _ in range(count)]

    def _take_one(self, step: int) -> int:
        page = self._free.pop() if self._free else self._evict()
        self._refs[page] = 1
        self._taken_in[page] = step
        return page

    def _evict(self) -> int:
        queue = self._passing if len(self._passing) >= len(self._kept) else self._kept
        page, _ = queue.popitem(last=False)
        key = self._keys[page]
        assert key is not None
        del self._pages[key]
        self._keys[page] = None
        self._was_hit[page] = False
        return page

    def hold(self, pages: Iterable[int]) -> None:
        """Add a reference to pages found by key."""
        for page in pages:
            if self._refs[page] == 0:
                self._kept.pop(page, None)
                self._passing.pop(page, None)
            self._refs[page] += 1
            self._was_hit[page] = True

    def release(self, pages: Iterable[int], *, passing: bool = False) -> None:
        """Drop a reference. Pages released earlier are evicted earlier; passing: see above."""
        for page in pages:
            self._refs[page] -= 1
            if self._refs[page] > 0:
                continue
            if self._keys[page] is None:
                self._free.append(page)
            elif passing and not self._was_hit[page]:
                self._passing[page] = None
            else:
                self._kept[page] = None

    def find(self, key: bytes) -> int | None:
        return self._pages.get(key)

    def publish(self, page: int, key: bytes) -> None:
        """Let a held page be found by its content. Of equal contents the first copy stays."""
        if key not in self._pages:
            self._pages[key] = page
            self._keys[page] = key

    def count_cached(self, pages: Sequence[int]) -> int:
        """How many of these pages nobody holds: holding them would make them unavailable."""
        return sum(self._refs[page] == 0 for page in pages)

    def is_private(self, page: int) -> bool:
        """One sequence holds it and nobody can find it: only such a page may be written."""
        return self._refs[page] == 1 and self._keys[page] is None

    def taken_after(self, page: int, step: int) -> bool:
        return self._taken_in[page] > step

    def check(self, references: Counter[int]) -> None:
        """Assert every invariant, given how often the sequences refer to each page."""
        assert self.num_free + self.num_cached + sum(r > 0 for r in self._refs) == self.total
        assert len(set(self._free)) == len(self._free)
        assert all(self._refs[page] == 0 and self._keys[page] is None for page in self._free)
        cached = [*self._kept, *self._passing]
        assert len(set(cached)) == len(cached)
        assert all(self._refs[page] == 0 and self._keys[page] is not None for page in cached)
        assert not any(self._was_hit[page] for page in (*self._free, *self._passing))
        assert {page: r for page, r in enumerate(self._refs) if r} == dict(references)
        assert {key: page for page, key in enumerate(self._keys) if key is not None} == self._pages
