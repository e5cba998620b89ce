"""What a test needs of the machine it runs on.

Where it is missing the test is skipped; with MOSSO_CI, which `.ci/run` sets, it fails: a silent skip there
would be taken for a test that passes.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def needs(there: bool, otherwise: str) -> pytest.MarkDecorator:
    """For a test that fails by itself where something is not there."""
    return pytest.mark.skipif(not there and "MOSSO_CI" not in os.environ, reason=otherwise)


def missing(what: str) -> NoReturn:
    """For a test that finds out as it runs."""
    if "MOSSO_CI" in os.environ:
        pytest.fail(what)
    pytest.skip(what)
