"""The expert layer against loops over tokens and experts in float64."""

from __future__ import annotations

import pytest
import torch

from mosso.kernels.experts import ExpandedExperts, PackedExperts, mix, moe, route
from mosso.kernels.mxfp4 import dequantize, quantize

E, H, INNER, K = 6, 64, 32, 3


def make(random, form):
    gate_up, down = random(E, 2 * INNER, H, scale=0.2), random(E, H, INNER, scale=0.2)
    gate_up_bias, down_bias = random(E, 2 * INNER), random(E, H)
    packed_gate_up, packed_down = quantize(gate_up), quantize(down)
    if form == "packed":
        return PackedExperts(*packed_gate_up, gate_up_bias, *packed_down, down_bias)
    dense = (dequantize(*pair, torch.float32) for pair in (packed_gate_up, packed_down))
    gate_up, down = dense
    return ExpandedExperts(gate_up, gate_up_bias, down, down_bias)


def naive(x, router, router_bias, experts):
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token, row in enumerate(x.double()):
        logits = router.double() @ row + router_bias.double()
        order = sorted(range(E), key=lambda e: -logits[e].item())[:K]
        shares = torch.softmax(logits[order], 0)
        for share, expert in zip(shares, order, strict=True):
            gate_up, down = (m.double() for m in experts.matrices(expert, torch.float32))
            inner = gate_up @ row + experts.gate_up_bias[expert].double()
            gate, up = inner[0::2].clamp(max=7.0), inner[1::2].clamp(-7.0, 7.0)
            hidden = gate * torch.sigmoid(1.702 * gate) * (up + 1)
            out[token] += share * (down @ hidden + experts.down_bias[expert].double())
    return out


@pytest.mark.parametrize("form", ["packed", "expanded"])
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_moe(random, form, tokens):
    experts = make(random, form)
    x, router, bias = random(tokens, H), random(E, H), random(E)
    expected = naive(x, router, bias, experts)
    got = moe(x, router, bias, experts, K, 7.0)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_shares_sum_to_one_and_ids_are_best_first(random):
    x, router, bias = random(20, H), random(E, H), random(E)
    chosen, shares = route(x, router, bias, K)
    assert torch.allclose(shares.sum(-1), torch.ones(20))
    assert (shares[:, :-1] >= shares[:, 1:]).all()
    logits = x @ router.T + bias
    assert torch.equal(chosen[:, 0], logits.argmax(-1))


def test_experts_that_no_token_chose_are_never_expanded(random, monkeypatch):
    experts = make(random, "packed")
    seen = []

    def spy(self, expert, dtype):
        seen.append(expert)
        return matrices(self, expert, dtype)

    matrices = PackedExperts.matrices
    monkeypatch.setattr(PackedExperts, "matrices", spy)
    chosen = torch.tensor([[4, 1], [1, 4]])
    mix(random(2, H), chosen, torch.full((2, 2), 0.5), experts, 7.0)
    assert seen == [1, 4]


def test_gradients_reach_the_dense_matrices_and_the_input(random):
    experts = make(random, "expanded")
    experts.gate_up.requires_grad_()
    x = random(4, H).requires_grad_()
    moe(x, random(E, H), random(E), experts, K, 7.0).sum().backward()
    assert experts.gate_up.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0
