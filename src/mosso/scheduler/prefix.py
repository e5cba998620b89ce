"""Names for page contents: equal keys mean equal tokens from position 0 on, under equal salts.

The KV of a position depends on every token before it, so a page's key chains over its parent's.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

_KEY_BYTES = 32  # no two contents share a key, not even ones made to


def root_key(salt: str) -> bytes:
    """The parent of every first page under `salt`."""
    return blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def page_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    return blake2b(array("q", tokens).tobytes(), key=parent, digest_size=_KEY_BYTES).digest()


def extend_keys(keys: list[bytes], salt: str, tokens: Sequence[int], page_size: int) -> None:
    """Append the keys of the pages that `tokens` complete and `keys` does not have yet."""
    for end in range((len(keys) + 1) * page_size, len(tokens) + 1, page_size):
        parent = keys[-1] if keys else root_key(salt)
        keys.append(page_key(parent, tokens[end - page_size : end]))
