"""Without a GPU Triton kernels run in its interpreter, which must be chosen before they are imported."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from zlib import crc32

import pytest
import torch
from processes import engines_of

try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:  # on a machine that is there for its GPU
    settings = None

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# As many tests run at once as there are cores: torch's threads would only wait for each other, and busily,
# for two and a half times the processor's time. An engine's process has as many as its settings say.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

if settings is not None:
    # An example that took long says of a busy machine that it is one. What lands must not depend on a draw:
    # CI's examples are the same each time, new ones are sought wherever else the tests run.
    settings.register_profile(
        "mosso",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize="MOSSO_CI" in os.environ,
    )
    settings.load_profile("mosso")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test draws by torch's own generator is the same whatever ran before it in this process."""
    torch.manual_seed(crc32(item.nodeid.encode()))


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_told_where_it_was_made() -> Iterator[None]:
    """What a module left open warns when it is collected, and a warning fails the test that runs then.

    Collected here it cannot meet a later module's test.
    """
    yield
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _no_engine_is_left_running() -> Iterator[None]:
    """An engine that outlives its module would be met, and perhaps killed, by a later module's test."""
    yield
    assert engines_of(os.getpid()) == []
