"""Helpers for the kernels' tests: fresh random inputs from a seed, and naive float64 arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

Random = Callable[..., torch.Tensor]


@pytest.fixture(params=[0, 1])
def random(request: pytest.FixtureRequest) -> Random:
    """random(*shape, scale=1.0) → standard normal float32, from a generator of this test's own."""
    generator = torch.Generator().manual_seed(request.param)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    return draw
