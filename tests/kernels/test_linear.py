from __future__ import annotations

import torch

from mosso.kernels.linear import embed, head, linear


def test_linear(random):
    x, weight, bias = random(3, 8), random(5, 8), random(5)
    expected = (x.double()[:, None] * weight.double()).sum(-1) + bias.double()
    assert (linear(x, weight, bias) - expected).abs().max() < 1e-5


def test_a_narrow_weight_widens_exactly(random):
    x, weight = random(3, 64), random(5, 64).bfloat16()
    assert torch.equal(linear(x, weight), linear(x, weight.float()))
    assert linear(x.bfloat16(), weight).dtype == torch.bfloat16


def test_embed_and_head(random):
    weight = random(9, 4).bfloat16()
    assert torch.equal(embed(torch.tensor([7, 0]), weight, torch.float32), weight[[7, 0]].float())
    logits = head(random(2, 4).bfloat16(), weight)
    assert logits.dtype == torch.float32
    assert logits.shape == (2, 9)
    assert head(random(0, 4), weight).shape == (0, 9)
