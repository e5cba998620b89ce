"""The checkpoint folder's vocabulary, as llguidance wants it."""

from __future__ import annotations

from pathlib import Path

from llguidance import LLTokenizer

from mosso.core.errors import RequestError


def open_vocabulary(folder: Path, vocab_size: int) -> LLTokenizer:
    """Read the folder's tokenizer.json; for an `original/` folder, the one beside it.

    `vocab_size`: of the model, whose embedding may be padded; ids without a token are never allowed.
    """
    for place in (folder, folder.absolute().parent):
        file = place / "tokenizer.json"
        if file.is_file():
            return LLTokenizer(file.read_text(encoding="utf-8"), n_vocab=vocab_size)
    raise RequestError(
        f"Structured output needs the vocabulary as tokenizer.json; {folder.name} has no such file."
    )
