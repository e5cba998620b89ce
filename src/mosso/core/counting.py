"""How many, in words."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 request`, `2 requests`; `many` where that is not `one` with an s."""
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"
