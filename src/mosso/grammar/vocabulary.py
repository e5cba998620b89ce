"""The checkpoint folder's vocabulary, as llguidance wants it.

llguidance reads a tokenizer.json itself, but its encoder then takes "<|end|>" in a client's schema for the
control token and forces that into the text. A vocabulary in tiktoken's form, which gpt-oss's is, has an
encoder for ordinary text alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

from mosso.core.byte_level import byte_alphabet
from mosso.core.errors import RequestError


def open_vocabulary(folder: Path, vocab_size: int) -> LLTokenizer:
    """Read the folder's tokenizer.json; for an `original/` folder, the one beside it.

    `vocab_size`: of the model, whose embedding may be padded; ids without a token are never allowed.
    """
    for place in (folder, folder.absolute().parent):
        file = place / "tokenizer.json"
        if file.is_file():
            try:
                return _vocabulary(json.loads(file.read_text(encoding="utf-8")), vocab_size)
            except (KeyError, TypeError, ValueError):
                raise RequestError(
                    f"Structured output needs a vocabulary like gpt-oss's; that of {folder.name} is another."
                ) from None
    raise RequestError(
        f"Structured output needs the vocabulary as tokenizer.json; {folder.name} has no such file."
    )


def _vocabulary(definition: dict[str, Any], vocab_size: int) -> LLTokenizer:
    """A byte-level BPE whose ids are its ranks: each token came of a merge of earlier ones."""
    added = definition["added_tokens"]
    special = {token["content"]: token["id"] for token in added if token["special"]}
    spelling = {character: byte for byte, character in byte_alphabet().items()}
    ranks = {
        bytes(map(spelling.__getitem__, text)): token
        for text, token in definition["model"]["vocab"].items()
        if text not in special
    }
    ranks |= {token["content"].encode(): token["id"] for token in added if not token["special"]}
    (words,) = [
        part["pattern"]["Regex"]
        for part in definition["pre_tokenizer"]["pretokenizers"]
        if part["type"] == "Split"
    ]
    made: LLTokenizer = LLTokenizer.from_tiktoken(  # type: ignore[attr-defined]
        encoder=ranks,
        special_tokens=special,
        pattern=words,
        eos_token=special["<|endoftext|>"],
        n_vocab=vocab_size,
        slices=None,
    )
    return made
