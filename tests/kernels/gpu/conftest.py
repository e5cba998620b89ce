"""Triton kernels beside their twins: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

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
