"""A tokenizer.json for checkpoints whose weights mean nothing: bytes, a few words, fillers, control tokens.

Every id of the vocabulary has a text, so whatever a random model samples can be shown. The control tokens and
Harmony's own words have their published ids in a vocabulary of the published size; in a small one the control
tokens keep their order and gaps and end the vocabulary.
"""

from __future__ import annotations

import json
import string
from typing import Any

from mosso.checkpoint.config import GenerationDefaults
from mosso.core.byte_level import byte_alphabet
from mosso.core.errors import UsageError

FULL_VOCAB = 201_088
FIRST_CONTROL = 199_998  # in the published vocabulary
CONTROL_SPAN = 21  # 199998 … 200018, with reserved ids between
MIN_VOCAB = 256 + 16 + CONTROL_SPAN
# Offsets from the first control token.
_CONTROLS = {
    0: "startoftext",
    1: "endoftext",
    4: "return",
    5: "constrain",
    7: "channel",
    8: "start",
    9: "end",
    10: "message",
    14: "call",
    20: "endofprompt",
}
_EOS_OFFSETS = (4, 1, 14)  # the order of the published generation_config.json
_WORDS = {"user": 1428, "final": 17196, "system": 17360, "analysis": 35644, "developer": 77944,
          "assistant": 173781}  # fmt: skip
# Letters with the one character before them, up to three digits, marks, line ends, other white space.
_PIECES = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def toy_tokenizer(vocab_size: int) -> str:
    """The text of a tokenizer.json of `vocab_size` ids, loadable by the tokenizers library.

    Raises UsageError for a vocabulary too small to hold the bytes, the words and the control tokens.
    """
    first = _first_control(vocab_size)
    split = {"type": "Split", "pattern": {"Regex": _PIECES}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    definition: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_control(first + i, i) for i in range(vocab_size - first)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a piece that is a token is that token: no merges are needed for words
            "vocab": {text: token for token, text in enumerate(_ordinary(first))},
            "merges": [],
        },
    }
    return json.dumps(definition, ensure_ascii=False)


def toy_generation(vocab_size: int) -> GenerationDefaults:
    """The published defaults, with the stop ids of toy_tokenizer(vocab_size)."""
    first = _first_control(vocab_size)
    return GenerationDefaults(eos_ids=tuple(first + offset for offset in _EOS_OFFSETS))


def _first_control(vocab_size: int) -> int:
    if vocab_size < MIN_VOCAB:
        raise UsageError(f"a vocabulary needs at least {MIN_VOCAB} ids, not {vocab_size}")
    return FIRST_CONTROL if vocab_size >= FULL_VOCAB else vocab_size - CONTROL_SPAN


def _control(token: int, offset: int) -> dict[str, Any]:
    name = _CONTROLS.get(offset, f"reserved_{token}")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": f"<|{name}|>", **flags, "special": True}


def _ordinary(count: int) -> list[str]:
    """Texts of ids 0 … count - 1 in byte-level spelling: bytes, then words at their places among fillers."""
    texts = list(byte_alphabet().values())
    words = {token if token < count else 256 + i: word for i, (word, token) in enumerate(_WORDS.items())}
    for token in range(256, count):
        texts.append(words.get(token) or _filler(token - 256))
    return texts


def _filler(number: int) -> str:
    """A made-up word of six letters with the space before it; distinct for each number."""
    letters = []
    for alphabet in (string.ascii_lowercase, "aeiou") * 3:
        number, digit = divmod(number, len(alphabet))
        letters.append(alphabet[digit])
    return "Ġ" + "".join(letters)
