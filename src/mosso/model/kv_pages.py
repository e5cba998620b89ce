"""How memory is divided into KV pages of the two groups. Arithmetic only, no torch.

First come the window pages with which every row can always run, whatever the others do: the window group
alone never causes a preemption. The memory left is shared between full pages and window pages for cached
prefixes: a prefix can be hit where the full pages up to it, and the window's pages before it, are cached.
Small pools get one such page with every CACHED_RATIO full ones, so that prefixes of about 1,200 tokens can
stay hittable whole; large pools get fewer: there it is the ends of many conversations that are worth keeping.
"""

from __future__ import annotations

from dataclasses import dataclass

CACHED_RATIO = 8
SMALL_POOL = 2048  # full pages
LARGE_RATIO = 64  # beyond the first SMALL_POOL
PLANE_ELEMENTS = (1 << 31) - 1  # of a layer's keys of one head: places within them are int32 in kernels


def span(positions: int, page_size: int) -> int:
    """Pages that this many consecutive positions touch at worst alignment."""
    return (positions - 2) // page_size + 2


def window_need(window: int, page_size: int, max_rows: int, token_budget: int) -> int:
    """Window pages with which every row can always run.

    A row reads the window of its first new position and writes its new ones: at most
    span(window - 1) + count // page_size + 1 pages; the counts of all rows sum to the token budget.
    """
    return max_rows * (span(window - 1, page_size) + 1) + -(-token_budget // page_size)


def cached_window_pages(full_pages: int) -> int:
    """Window pages for cached prefixes beside so many full pages."""
    return min(full_pages, SMALL_POOL) // CACHED_RATIO + max(0, full_pages - SMALL_POOL) // LARGE_RATIO


@dataclass(frozen=True, slots=True)
class Pages:
    full: int
    window: int  # those of `window_need` included


def most_pages(page_size: int, head_dim: int) -> int:
    """Pages of one group that kernels can address, beside the scratch page."""
    return PLANE_ELEMENTS // (page_size * head_dim) - 1


def divide(memory: int, full_bytes: int, window_bytes: int, need: int, most: int) -> Pages:
    """The most full pages, of full_bytes each, that fit beside their share of window pages and `need` more.

    Never more than `most` full ones.

    0 full pages: not even the need fits, or nothing beside it.
    """
    left = max(0, memory - need * window_bytes)
    full = left * CACHED_RATIO // max(1, full_bytes * CACHED_RATIO + window_bytes)
    if full > SMALL_POOL:
        rest = left - SMALL_POOL * full_bytes - SMALL_POOL // CACHED_RATIO * window_bytes
        full = SMALL_POOL + rest * LARGE_RATIO // (full_bytes * LARGE_RATIO + window_bytes)
    full = min(full, most)
    return Pages(full, need + cached_window_pages(full))
