"""The demo, as a script has it: one engine for all of a module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mosso import LLM


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("demo", threads=1) as llm:
        yield llm
