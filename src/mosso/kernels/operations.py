"""Which implementation of the operations a device gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from mosso.kernels import attention, cache, experts, linear, native, noise, norm, sampling


class RmsNorm(Protocol):
    def __call__(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor: ...


class Linear(Protocol):
    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor: ...


class RotateAndStore(Protocol):
    def __call__(
        self,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        pool: torch.Tensor,
        slots: torch.Tensor,
    ) -> torch.Tensor: ...


class PagedAttention(Protocol):
    def __call__(
        self,
        q: torch.Tensor,
        pool: torch.Tensor,
        pages: torch.Tensor,
        sinks: torch.Tensor,
        query_starts: torch.Tensor,
        context_lens: torch.Tensor,
        window: int | None,
    ) -> torch.Tensor: ...


class Moe(Protocol):
    def __call__(
        self,
        x: torch.Tensor,
        router: torch.Tensor,
        router_bias: torch.Tensor,
        experts: experts.Experts,
        top_k: int,
        limit: float,
    ) -> torch.Tensor: ...


class Restrict(Protocol):
    def __call__(self, logits: torch.Tensor, at: torch.Tensor, masks: torch.Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class Operations:
    """One implementation of each operation; the torch twins define what they compute."""

    name: str
    rms_norm: RmsNorm
    linear: Linear
    rotate_and_store: RotateAndStore
    paged_attention: PagedAttention
    moe: Moe
    draw: noise.Draw
    restrict: Restrict


TWINS = Operations(
    "torch",
    norm.rms_norm,
    linear.linear,
    cache.rotate_and_store,
    attention.paged_attention,
    experts.moe,
    noise.draw,
    sampling.restrict,
)
NATIVE = Operations(
    "native",
    native.rms_norm,
    native.linear,
    native.rotate_and_store,
    native.paged_attention,
    native.moe,
    native.draw,
    native.restrict,
)


def operations_for(device: torch.device, dtype: torch.dtype) -> Operations:
    """The fastest there is. The native kernels compute in float32 only and need a C compiler once."""
    if device.type == "cpu" and dtype == torch.float32 and native.unavailable() is None:
        return NATIVE
    return TWINS
