"""What may be shown on a terminal."""

from __future__ import annotations

_OBEYED = [*range(0x20), *range(0x7F, 0xA0)]  # C0, DEL and C1
_SHOWN = dict.fromkeys(_OBEYED, "\N{REPLACEMENT CHARACTER}") | {0x09: "\t", 0x0A: "\n", 0x0D: None}


def harmless(text: str) -> str:
    """Without the characters that a terminal obeys, as models, tools and servers could set its title or its
    clipboard with them, or write over what is there."""
    return text.translate(_SHOWN)
