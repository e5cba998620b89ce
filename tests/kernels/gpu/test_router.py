"""The router against its twin, which is held to float64."""

from __future__ import annotations

import pytest
import torch

from mosso.kernels.gpu import router
from mosso.kernels.gpu.router import Tiling

from .conftest import close
from .test_rope import flips

EPS = 1e-5
TOP = 4
WHOLE = Tiling(tokens=16, experts=32, depth=32, warps=4, stages=2)
SPLIT = Tiling(tokens=16, experts=16, depth=32, warps=1, stages=3)


@pytest.fixture
def hidden(device):
    return 2880 if device.type == "cuda" else 80


def some(tokens, experts, hidden, device, dtype):
    x = torch.randn(tokens, hidden, device=device) * 20
    weight = (torch.randn(experts, hidden, device=device) / hidden**0.5).to(dtype)
    return x, weight, torch.randn(experts, device=device).to(dtype)


def logits_of(normed, weight, bias):
    return normed.double() @ weight.double().T + bias.double()


def holds(got, weight, bias, active):
    """All that the routing promises, given what it normed; float64 decides, but for near ties."""
    tokens, experts = got.normed.shape[0], weight.shape[0]
    logits = logits_of(got.normed, weight, bias)
    chosen = got.chosen[:active].long()
    assert (got.chosen[active:] == experts).all()
    assert not got.shares[active:].any()
    own = logits[:active].gather(1, chosen)
    best = logits[:active].topk(TOP).values
    close(own, best, worst=1e-4, rms=1e-4)
    close(got.shares[:active], best.softmax(-1), worst=1e-4, rms=1e-4)
    assert got.counts.tolist() == chosen.flatten().bincount(minlength=experts).tolist()
    for expert in range(experts):
        pairs = got.lists[expert, : got.counts[expert]]
        assert pairs.sort().values.tolist() == torch.where(chosen.flatten() == expert)[0].tolist()
    assert got.lists.shape == (experts, tokens)


@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize(
    ("tokens", "active", "cut"),
    [(1, 1, None), (3, 3, None), (8, 5, None), (17, 17, None), (35, 20, WHOLE), (35, 20, SPLIT)],
)
@pytest.mark.parametrize("normed", [False, True])
def test_route(device, dtype, hidden, tokens, active, experts, normed, cut):
    x, weight, bias = some(tokens, experts, hidden, device, dtype)
    real = torch.tensor([active], dtype=torch.int32, device=device)
    if normed:
        norm = 1 + torch.randn(hidden, device=device) / 2, EPS
    else:
        x, norm = (x / 20).to(dtype), None
    got = router.route(x, weight, bias, TOP, real, norm=norm, config=cut)
    want = router.route_twin(x, weight, bias, TOP, real, norm=norm)
    holds(got, weight, bias, active)
    holds(want, weight, bias, active)
    assert got.normed.dtype == dtype
    close(got.normed, want.normed, **flips(dtype))


@pytest.mark.parametrize("tokens", [300, 1100])
def test_many_tokens(device, dtype, hidden, tokens):
    x, weight, bias = some(tokens, 32, hidden, device, dtype)
    active = tokens - 3
    real = torch.tensor([active], dtype=torch.int32, device=device)
    got = router.route(x, weight, bias, TOP, real, norm=(torch.rand(hidden, device=device), EPS))
    holds(got, weight, bias, active)


@pytest.mark.parametrize("cut", [None, WHOLE, SPLIT])
def test_of_equals_the_lower_id_first(device, dtype, hidden, cut):
    """Equal rows of the router give equal logits to the bit."""
    x, weight, bias = some(3, 32, hidden, device, dtype)
    weight[:], bias[:] = weight[0], 0
    bias[20] = 1
    active = torch.tensor([3], dtype=torch.int32, device=device)
    got = router.route(x.to(dtype), weight, bias, TOP, active, config=cut)
    assert got.chosen.tolist() == [[20, 0, 1, 2]] * 3


def test_tickets_are_left_zero(device, dtype, hidden):
    x, weight, bias = some(3, 32, hidden, device, dtype)
    active = torch.tensor([3], dtype=torch.int32, device=device)
    for cut in (None, SPLIT):
        router.route(x.to(dtype), weight, bias, TOP, active, config=cut)
        assert not router.tickets(x.device).any()


def test_not_a_number_chooses_experts_and_shows(device, dtype, hidden):
    x, weight, bias = some(2, 32, hidden, device, dtype)
    x[0] = float("nan")
    active = torch.tensor([2], dtype=torch.int32, device=device)
    got = router.route(x.to(dtype), weight, bias, TOP, active)
    assert got.chosen.max() < 32
    assert got.counts.sum() == 2 * TOP
    assert got.shares[0].isnan().all()
    assert got.shares[1].isfinite().all()
