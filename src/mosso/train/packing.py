"""Documents of token ids → rows of one length, several documents a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

OPEN_ROWS = 24  # rows that wait for a document that fits; more waste less padding and mix less evenly
PADDING = 0  # the document number of unused positions


class Kind(IntEnum):
    """What a token is to the loss."""

    PADDING = 0
    PROMPT = 1  # learnt a little: prompts teach what words mean
    TARGET = 2
    HISTORY = 3  # seen, never learnt


@dataclass(frozen=True, slots=True)
class Document:
    """One example as tokens: `ids[:prompt]` is given, the rest is to learn. `number` is the caller's own.

    From `history` on, the given tokens hold the assistant's earlier words. They are no model for the next
    ones: history leaves thoughts out, and ends an answer in `<|end|>` where the assistant must end it in
    `<|return|>`.
    """

    ids: list[int]
    history: int
    prompt: int
    number: int


@dataclass(frozen=True, slots=True)
class Rows:
    """N packed rows of S positions, each array [N, S].

    `documents` counts a row's documents from 1 (0 is padding), `kinds` holds Kind, `numbers` each token's
    Document.number (-1 in padding).
    """

    tokens: npt.NDArray[np.uint16]
    documents: npt.NDArray[np.uint8]
    kinds: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.int32]

    @staticmethod
    def concatenate(parts: list[Rows]) -> Rows:
        fields = ("tokens", "documents", "kinds", "numbers")
        return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def pack(documents: Iterable[Document], length: int) -> Iterator[list[Document]]:
    """Group documents into rows of at most `length` tokens; each goes where it leaves the least room.

    Documents longer than a row are dropped. The last, partly filled rows come out at the end.
    """
    rows: list[list[Document]] = []
    room: list[int] = []
    for document in documents:
        size = len(document.ids)
        if size > length:
            continue
        fitting = [i for i, left in enumerate(room) if left >= size]
        if fitting:
            best = min(fitting, key=room.__getitem__)
            rows[best].append(document)
            room[best] -= size
            continue
        if len(rows) == OPEN_ROWS:
            fullest = min(range(len(rows)), key=room.__getitem__)
            room.pop(fullest)
            yield rows.pop(fullest)
        rows.append([document])
        room.append(length - size)
    yield from rows


def to_arrays(rows: list[list[Document]], length: int) -> Rows:
    """Lay grouped documents out as arrays."""
    shape = (len(rows), length)
    out = Rows(
        tokens=np.zeros(shape, np.uint16),
        documents=np.full(shape, PADDING, np.uint8),
        kinds=np.full(shape, Kind.PADDING, np.uint8),
        numbers=np.full(shape, -1, np.int32),
    )
    for r, row in enumerate(rows):
        start = 0
        for place, document in enumerate(row, 1):
            end = start + len(document.ids)
            out.tokens[r, start:end] = document.ids
            out.documents[r, start:end] = place
            out.kinds[r, start : start + document.history] = Kind.PROMPT
            out.kinds[r, start + document.history : start + document.prompt] = Kind.HISTORY
            out.kinds[r, start + document.prompt : end] = Kind.TARGET
            out.numbers[r, start:end] = document.number
            start = end
    return out
