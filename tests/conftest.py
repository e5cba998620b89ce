"""Without a GPU Triton kernels run in its interpreter, which must be chosen before they are imported."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_told_where_it_was_made() -> Iterator[None]:
    """What a module left open warns when it is collected, and a warning fails the test that runs then.

    Collected here it cannot meet a later module's test.
    """
    yield
    gc.collect()
