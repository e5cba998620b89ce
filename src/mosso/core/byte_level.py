"""How byte-level BPE files spell bytes."""

from __future__ import annotations

from functools import cache


@cache
def byte_alphabet() -> dict[int, str]:
    """Byte → the printable character that stands for it (GPT-2's table), in the order of bytes.

    Printable Latin-1 bytes stand for themselves; the others take the code points from 256 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return {byte: chr(byte if byte in printable else next(spare)) for byte in range(256)}
