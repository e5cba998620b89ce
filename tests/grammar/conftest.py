"""A vocabulary of 512 ids in a folder, and turns written as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mosso.checkpoint.toy_tokenizer import toy_tokenizer
from mosso.core.constraints import Turn, TurnConstraint
from mosso.grammar import HarmonyConstrainer
from mosso.harmony.tokenizer import Tokenizer

VOCAB = 512


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grammar")
    (folder / "tokenizer.json").write_text(toy_tokenizer(VOCAB))
    return folder


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def constrainer(folder: Path) -> HarmonyConstrainer:
    return HarmonyConstrainer(folder, VOCAB)


@pytest.fixture(scope="session")
def ids(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Token ids of a text in which control tokens are written by name."""

    def encode(text: str) -> list[int]:
        tokens: list[int] = []
        for part in re.split(r"(<\|\w+\|>)", text):
            name = part.strip("<|>")
            if part.startswith("<|"):
                tokens.append(getattr(tokenizer.control, "return_" if name == "return" else name))
            else:
                tokens += tokenizer.encode(part)
        return tokens

    return encode


@pytest.fixture(scope="session")
def allowed(constrainer: HarmonyConstrainer, tokenizer: Tokenizer, ids) -> Callable[..., set[str] | None]:
    """What may follow a turn's beginning, each token as text; None when anything may."""

    def after(constraint: TurnConstraint | Turn, text: str) -> set[str] | None:
        turn = Turn(constraint) if isinstance(constraint, TurnConstraint) else constraint
        mask = constrainer.begin(turn, ids(text)).mask()
        if mask is None:
            return None
        return {tokenizer.decode([i], control=True) for i in tokens_of(mask)}

    return after


def tokens_of(mask: bytes) -> list[int]:
    return [8 * at + bit for at, byte in enumerate(mask) for bit in range(8) if byte >> bit & 1]
