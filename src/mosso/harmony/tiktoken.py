"""The reference vocabulary, o200k_base.tiktoken, as a Hugging Face tokenizer.json.

The checkpoint's `original/` layout ships no tokenizer.json; the published vocabulary file beside it is
enough. Its lines hold a token's bytes in base64 and its rank, which is also its id.
"""

from __future__ import annotations

import base64
from typing import Any

from mosso.core.byte_level import byte_alphabet

VOCABULARY_FILE = "o200k_base.tiktoken"

# o200k_harmony: what the published model adds to o200k_base. The ids between are reserved.
_SPECIAL_TOKENS = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|reserved_200000|>": 200000,
    "<|reserved_200001|>": 200001,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|reserved_200004|>": 200004,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|reserved_200009|>": 200009,
    "<|reserved_200010|>": 200010,
    "<|reserved_200011|>": 200011,
    "<|call|>": 200012,
    "<|reserved_200013|>": 200013,
    "<|endofprompt|>": 200018,
}

# How o200k cuts text into words before merging: words with their contractions, numbers of up to three
# digits, punctuation, line ends, other white space. Letter classes: cased and caseless, each with marks.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_WORDS = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def tokenizer_json(text: str) -> dict[str, Any]:
    """The content of a tokenizer.json with the ids of o200k_harmony; about 3 s for the 200k tokens.

    Raises ValueError for text that is not in tiktoken's format.
    """
    ranks: dict[bytes, int] = {}
    for line in text.splitlines():
        token, _, rank = line.partition(" ")
        ranks[base64.b64decode(token, validate=True)] = int(rank)
    alphabet = byte_alphabet()
    spelled = {token: "".join(map(alphabet.__getitem__, token)) for token in ranks}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special_token(content, token_id) for content, token_id in _SPECIAL_TOKENS.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # tiktoken looks a whole word up before it merges
            "vocab": {spelled[token]: rank for token, rank in ranks.items()},
            "merges": [(spelled[left], spelled[right]) for left, right in _merges(ranks)],
        },
    }


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every way to build a token from two others, lowest rank first.

    tiktoken merges the neighbours whose union has the lowest rank, whichever two they are, so all splits of
    a token share its rank.
    """
    return [
        (token[:cut], token[cut:])
        for token, _ in sorted(ranks.items(), key=lambda item: item[1])
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]


def _special_token(content: str, token_id: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **flags, "special": True}
