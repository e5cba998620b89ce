"""Packing keeps every document whole; the objective sees only the tokens of one document."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.train.feed import Batch, to_device
from mosso.train.objective import PROMPT_WEIGHT, next_tokens
from mosso.train.packing import Document, Kind, pack, to_arrays

LENGTH = 32


@st.composite
def documents(draw: st.DrawFn) -> list[Document]:
    sizes = draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=120))
    return [
        Document([n % 60_000] * (prompt + target), draw(st.integers(0, prompt)), prompt, n)
        for n, (prompt, target) in enumerate(sizes, 1)
    ]


@settings(max_examples=60, deadline=None)
@given(documents())
def test_every_document_that_fits_appears_once_and_whole(given_documents: list[Document]) -> None:
    rows = list(pack(given_documents, LENGTH))
    assert all(sum(len(d.ids) for d in row) <= LENGTH for row in rows)
    kept = sorted(d.number for row in rows for d in row)
    assert kept == [d.number for d in given_documents if len(d.ids) <= LENGTH]


@settings(max_examples=30, deadline=None)
@given(documents())
def test_arrays_hold_the_documents_in_place(given_documents: list[Document]) -> None:
    rows = list(pack(given_documents, LENGTH))
    arrays = to_arrays(rows, LENGTH)
    for r, row in enumerate(rows):
        for place, document in enumerate(row, 1):
            at = arrays.documents[r] == place
            assert arrays.tokens[r][at].tolist() == document.ids
            heard, target = document.prompt - document.history, len(document.ids) - document.prompt
            kinds = [Kind.PROMPT] * document.history + [Kind.HISTORY] * heard + [Kind.TARGET] * target
            assert arrays.kinds[r][at].tolist() == kinds
            assert set(arrays.numbers[r][at].tolist()) == {document.number}
        unused = arrays.documents[r] == 0
        assert not arrays.kinds[r][unused].any()
        assert (arrays.numbers[r][unused] == -1).all()


def batch_of(rows: list[list[Document]]) -> Batch:
    return to_device(to_arrays(rows, LENGTH), torch.device("cpu"))


def test_large_token_ids_survive_the_narrow_arrays() -> None:
    batch = batch_of([[Document([40_000, 65_000], 1, 1, 0)]])
    assert batch.tokens[0, :2].tolist() == [40_000, 65_000]


def test_labels_are_next_tokens_and_weights_stop_at_a_documents_end() -> None:
    first, second = Document([1, 2, 3, 4], 2, 2, 0), Document([5, 6, 7], 1, 1, 1)
    labels, weights = next_tokens(batch_of([[first, second]]))
    assert labels[0, :3].tolist() == [2, 3, 4]
    p = np.float32(PROMPT_WEIGHT)
    # 1→2 prompt, 2→3 and 3→4 targets, 4→5 another document, 5→6 and 6→7 targets, 7→ padding
    assert weights[0, :8].tolist() == [p, 1, 1, 0, 1, 1, 0, 0]
    assert not weights[0, 8:].any()


def test_the_last_position_of_a_full_row_has_no_label() -> None:
    _, weights = next_tokens(batch_of([[Document(list(range(LENGTH)), 1, 1, 0)]]))
    assert weights[0, -1] == 0
    assert weights[0, 1:-1].all()


def test_what_the_assistant_said_before_is_not_learnt() -> None:
    _, weights = next_tokens(batch_of([[Document([1, 2, 3, 4, 5, 6], 2, 4, 0)]]))
    p = np.float32(PROMPT_WEIGHT)
    assert weights[0, :6].tolist() == [p, 0, 0, 1, 1, 0]
