"""The sizes that a scheduler works within."""

from __future__ import annotations

from dataclasses import dataclass

from mosso.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Sizes in tokens, pages of `page_size` tokens, rows and requests."""

    page_size: int
    full_pages: int  # in the pool of the full-attention layers
    window_pages: int  # in the pool of the sliding-window layers
    window: int  # a query at position q sees keys q - window + 1 .. q
    max_rows: int  # requests that run at once
    token_budget: int  # positions computed in one step, at most
    max_context: int  # prompt and generated tokens of one request, at most
    max_waiting: int = 1024
    prefix_cache: bool = True
    prefill_budget: int | None = None  # of these, beside rows that decode; None: the whole budget
    background_rows: int | None = None  # that run beside others, at most; None: an eighth of max_rows
    max_slowdown: float | None = None  # a stream's time from token to token, in times of its time alone;
    # so many rows run at once that it is not exceeded. None: it may be anything

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            least = 0 if name == "background_rows" else 1
            if name != "prefix_cache" and value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
        if self.window_pages < self.window_bound(1):
            raise UsageError(
                f"window_pages must be at least {self.window_bound(1)} to hold a window of {self.window} "
                f"in pages of {self.page_size}, not {self.window_pages}"
            )

    @property
    def most_background_rows(self) -> int:
        return -(-self.max_rows // 8) if self.background_rows is None else self.background_rows

    @property
    def context(self) -> int:
        """Tokens of one request that fit when it is alone."""
        return min(self.max_context, self.full_pages * self.page_size)

    def pages(self, positions: int) -> int:
        """Pages that cover the first `positions` positions."""
        return -(-positions // self.page_size)

    def first_window_page(self, position: int) -> int:
        """The first logical page that a query at `position`, or any later one, still reads."""
        return max(0, position - (self.window - 1)) // self.page_size

    def window_bound(self, chunk: int) -> int:
        """Window pages that one row may hold while it computes `chunk` positions."""
        return self.pages(self.window - 1 + chunk) + 1
