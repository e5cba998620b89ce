"""Triton kernels beside their twins: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no build for this system")


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def dtype(device: torch.device) -> torch.dtype:
    """What the kernels compute in. The interpreter's product of bfloat16 is wrong; float16's is right."""
    return torch.bfloat16 if device.type == "cuda" else torch.float16


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch)


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on what is allocated is full of NaN or absurd, so what no kernel writes is noticed."""

    def full(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def filled(*args: Any, **options: Any) -> torch.Tensor:
            made = allocate(*args, **options)
            if made.is_floating_point():
                return made.fill_(float("nan"))
            return made.fill_(-77) if made.dtype.is_signed else made

        return filled

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, full(getattr(torch, name)))


def close(got: torch.Tensor, want: torch.Tensor, *, worst: float, rms: float) -> None:
    """The worst element against the largest of `want`, and the root mean square against its own."""
    got, want = got.double().cpu(), want.double().cpu()
    assert got.shape == want.shape
    assert torch.isfinite(got).all(), "elements that were never written, or overflow"
    error = (got - want).abs()
    scale = want.abs().max().clamp(min=1e-30)
    assert error.max() <= worst * scale, f"worst error {error.max() / scale:.2e} of the largest element"
    relative = (error.square().mean() / want.square().mean().clamp(min=1e-60)).sqrt()
    assert relative <= rms, f"relative RMS error {relative:.2e}"
