"""The published vocabulary and the official renderer to compare with, and a small vocabulary made by hand."""

from __future__ import annotations

import gzip
import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mosso.core.byte_level import byte_alphabet
from mosso.harmony.renderer import Renderer
from mosso.harmony.tiktoken import VOCABULARY_FILE
from mosso.harmony.tokenizer import Tokenizer

O200K_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


@pytest.fixture(scope="session")
def vocabulary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but o200k_base.tiktoken."""
    spec = find_spec("bpe_openai")  # found, not imported: only its data file is wanted
    assert spec is not None
    assert spec.origin is not None
    packed = Path(spec.origin).parent / "data" / f"{VOCABULARY_FILE}.gz"
    content = gzip.decompress(packed.read_bytes())
    assert hashlib.sha256(content).hexdigest() == O200K_SHA256
    folder = tmp_path_factory.mktemp("o200k")
    (folder / VOCABULARY_FILE).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def tokenizer(vocabulary_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(vocabulary_folder)


@pytest.fixture(scope="session")
def renderer(tokenizer: Tokenizer) -> Renderer:
    return Renderer(tokenizer)


@pytest.fixture(scope="session")
def official(vocabulary_folder: Path) -> Any:
    """The official encoding; it reads the vocabulary from a folder named by the environment."""
    import openai_harmony

    before = os.environ.get("TIKTOKEN_ENCODINGS_BASE")
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(vocabulary_folder)
    try:
        return openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
    finally:
        if before is None:
            del os.environ["TIKTOKEN_ENCODINGS_BASE"]
        else:
            os.environ["TIKTOKEN_ENCODINGS_BASE"] = before


CONTROL_TEXTS = [
    f"<|{name}|>"
    for name in "startoftext endoftext return constrain channel start end message call".split()  # noqa: SIM905
]


@pytest.fixture
def small_definition() -> dict[str, Any]:
    """A tokenizer.json of single bytes, a few merges, and the control tokens inside the vocabulary.

    Its whole-word rule would let "<|end|>" reach the model in one piece, and `ignore_merges` would then look
    it up: the worst case for keeping control tokens out of user text.
    """
    spelled = byte_alphabet()
    vocab = {spelled[byte]: byte for byte in range(256)}
    merges = [["<", "|"], ["e", "n"], ["en", "d"], ["|", ">"], ["<|", "end"], ["<|end", "|>"]]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    for text in CONTROL_TEXTS:
        vocab.setdefault(text, len(vocab))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            {"id": vocab[text], "content": text, **flags, "special": True} for text in CONTROL_TEXTS
        ]
        + [{"id": len(vocab), "content": "plain added", **flags, "special": False}],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocab,
            "merges": merges,
        },
    }
