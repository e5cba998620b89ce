"""KV pages of both groups for one sequence at a time.

The full group holds a page for every computed position. The window group holds only the pages that the
next position still reads, and those of the chunk being computed. Both groups grow by the same logical
pages, so that one number tells how far both reach.

When pages change hands. Steps run in order on one device. A page released by update() or abort() is taken
at the earliest by a plan made later, whose step runs after every step that was in flight: those may still
write the page, and nobody reads what they write. Within one plan, pages come from sequences without work
in it, and a window page that this step still reads is released only once the plan is complete. In the same
way content counts as computed once its step is planned: whoever finds it runs later.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from mosso.scheduler.config import SchedulerConfig
from mosso.scheduler.pages import PagePool
from mosso.scheduler.prefix import extend_keys
from mosso.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """Cached pages that a sequence can start from. Valid until the next take()."""

    full_pages: tuple[int, ...] = ()  # for logical pages 0, 1, ...
    window_pages: tuple[int, ...] = ()  # for the last logical pages of full_pages
    next_key: bytes | None = None  # of the first page that was not found, where a longer match is possible

    @property
    def window_first(self) -> int:
        return len(self.full_pages) - len(self.window_pages)


class KvCache:
    """Owns both pools. A sequence's page lists change only here."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.full = PagePool(config.full_pages)
        self.window = PagePool(config.window_pages)

    def match(self, sequence: Sequence) -> PrefixMatch:
        """The longest prefix whose full pages, and window pages that its end reads, are all cached.

        At least one known token is left to compute: its logits are what the request wants.
        """
        if not self.config.prefix_cache:
            return PrefixMatch()
        self._extend_keys(sequence)
        keys = sequence.keys[: (len(sequence.tokens) - 1) // self.config.page_size]
        full_pages = self._find_full(keys)
        end = self._window_end(keys, len(full_pages))
        found = (self.window.find(key) for key in keys[self._window_first(end) : end])
        return PrefixMatch(
            full_pages=tuple(full_pages[:end]),
            window_pages=tuple(page for page in found if page is not None),
            next_key=keys[end] if end < len(keys) else None,
        )

    def _find_full(self, keys: Iterable[bytes]) -> list[int]:
        pages: list[int] = []
        for key in keys:
            if (page := self.full.find(key)) is None:
                break
            pages.append(page)
        return pages

    def _window_end(self, keys: list[bytes], end: int) -> int:
        """The largest number of pages, at most `end`, whose window is cached.

        A missing page spoils every end behind it that still reads it, so the search goes on from there.
        """
        page = end - 1
        while page >= self._window_first(end):
            if self.window.find(keys[page]) is None:
                end = page
            page -= 1
        return end

    def _window_first(self, pages: int) -> int:
        """The first logical page that the position after `pages` pages reads."""
        return self.config.first_window_page(pages * self.config.page_size)

    def can_start(self, sequence: Sequence, match: PrefixMatch, reserved: int) -> bool:
        """Whether all known tokens fit beside `reserved` full pages, and a window beside the others'."""
        full = self.full.num_available - self.full.count_cached(match.full_pages) - reserved
        window = self.window.num_available - self.window.count_cached(match.window_pages)
        return full >= self.config.pages(len(sequence.tokens)) - len(
            match.full_pages
        ) and window >= self.config.window_bound(1) - len(match.window_pages)

    def start(self, sequence: Sequence, match: PrefixMatch) -> None:
        """Hold the matched pages; the sequence's computed tokens begin behind them."""
        self.full.hold(match.full_pages)
        self.window.hold(match.window_pages)
        sequence.full_pages = list(match.full_pages)
        sequence.window_pages = deque(match.window_pages)
        sequence.window_first = match.window_first
        sequence.published = len(match.full_pages)
        sequence.computed = len(match.full_pages) * self.config.page_size

    def room(self, sequence: Sequence) -> int:
        """Positions that it could compute with the pages that it holds and those available."""
        pages = len(sequence.full_pages) + min(self.full.num_available, self.window.num_available)
        return pages * self.config.page_size - sequence.computed

    def extend(self, sequence: Sequence, count: int, step: int) -> tuple[list[int], list[int]]:
        """Take the pages, (full, window), that `count` more positions need; room() has seen that they fit.

        Both lists are for the logical pages that follow those already held.
        """
        need = self.config.pages(sequence.computed + count) - len(sequence.full_pages)
        full, window = self.full.take(need, step), self.window.take(need, step)
        sequence.full_pages += full
        sequence.window_pages += window
        assert len(sequence.window_pages) <= self.config.window_bound(count)
        return full, window

    def settle(self, sequence: Sequence) -> None:
        """Its computed or known tokens grew: publish complete pages, let go of those behind the window."""
        if self.config.prefix_cache:
            self._publish(sequence)
        first = self.config.first_window_page(sequence.computed)
        while sequence.window_first < first:
            passing = not self._ends_prompt(sequence, sequence.window_first)
            self.window.release((sequence.window_pages.popleft(),), passing=passing)
            sequence.window_first += 1

    def _ends_prompt(self, sequence: Sequence, page: int) -> bool:
        """Whether the next turn of a conversation reads this logical page of the window group, if its history
        leaves the thinking out: the prompts then agree up to the end of this one."""
        complete = len(sequence.request.prompt) // self.config.page_size
        return self._window_first(complete) <= page < complete

    def _publish(self, sequence: Sequence) -> None:
        complete = min(sequence.computed, len(sequence.tokens)) // self.config.page_size
        if complete <= sequence.published:
            return
        self._extend_keys(sequence)
        for page in range(sequence.published, complete):
            key = sequence.keys[page]
            self.full.publish(sequence.full_pages[page], key)
            if page >= sequence.window_first:
                self.window.publish(sequence.window_pages[page - sequence.window_first], key)
        sequence.published = complete

    def _extend_keys(self, sequence: Sequence) -> None:
        extend_keys(sequence.keys, sequence.request.cache_salt, sequence.tokens, self.config.page_size)

    def release(self, sequence: Sequence) -> None:
        """Let go of everything, the end first: a prefix is worth more than what follows it."""
        self.full.release(reversed(sequence.full_pages))
        self.window.release(reversed(sequence.window_pages))
        sequence.full_pages = []
        sequence.window_pages = deque()
        sequence.window_first = sequence.published = sequence.computed = 0

    def check(self, running: Iterable[Sequence]) -> None:
        """Assert every invariant, given all sequences that hold pages."""
        full: Counter[int] = Counter()
        window: Counter[int] = Counter()
        for sequence in running:
            full.update(sequence.full_pages)
            window.update(sequence.window_pages)
            self._check_sequence(sequence)
        self.full.check(full)
        self.window.check(window)

    def _check_sequence(self, sequence: Sequence) -> None:
        pages = self.config.pages(sequence.computed)
        assert len(sequence.full_pages) == pages
        assert sequence.window_first == self.config.first_window_page(sequence.computed)
        assert sequence.window_first + len(sequence.window_pages) == pages
        assert len(sequence.window_pages) <= self.config.window_bound(1)
        if sequence.computed % self.config.page_size:  # it will be written again
            assert self.full.is_private(sequence.full_pages[-1])
            assert self.window.is_private(sequence.window_pages[-1])
