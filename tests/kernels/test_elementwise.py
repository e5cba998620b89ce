"""Normalisation, rotary embedding and SwiGLU against arithmetic spelled out element by element."""

from __future__ import annotations

import math

import pytest
import torch

from mosso.core.config import YarnRope
from mosso.kernels.norm import rms_norm
from mosso.kernels.rope import apply_rope, concentration, correction_range, inverse_frequencies, rope_tables
from mosso.kernels.swiglu import swiglu

PUBLISHED = YarnRope()


def test_rms_norm(random):
    x, weight = random(5, 12, scale=3.0), random(12)
    for row, got in zip(x.tolist(), rms_norm(x, weight, 1e-5).tolist(), strict=True):
        root = math.sqrt(sum(value * value for value in row) / len(row) + 1e-5)
        assert got == pytest.approx(
            [v / root * w for v, w in zip(row, weight.tolist(), strict=True)], rel=1e-5
        )


def test_rms_norm_rounds_once(random):
    x, weight = random(3, 64).bfloat16(), random(64)
    assert torch.equal(rms_norm(x, weight, 1e-5), rms_norm(x.float(), weight, 1e-5).bfloat16())


def test_rms_norm_survives_tiny_and_zero_rows():
    x = torch.tensor([[0.0, 0.0], [1e-30, -1e-30]])
    assert torch.isfinite(rms_norm(x, torch.ones(2), 1e-5)).all()


def test_yarn_constants_of_the_published_models():
    low, high = correction_range(PUBLISHED, 64)
    assert low == pytest.approx(8.092779115512402, rel=1e-12)
    assert high == pytest.approx(17.39802450158856, rel=1e-12)
    assert concentration(PUBLISHED) == pytest.approx(1.3465735902799727, rel=1e-15)


def test_inverse_frequencies_against_the_formula():
    inverse = inverse_frequencies(PUBLISHED, 64).tolist()
    low, high = 8.092779115512402, 17.39802450158856
    for slot, got in enumerate(inverse):
        frequency = 150_000.0 ** (2 * slot / 64)
        ramp = min(max((slot - low) / (high - low), 0.0), 1.0)
        assert got == pytest.approx(1 / (32 * frequency) * ramp + 1 / frequency * (1 - ramp), rel=1e-6)


def test_without_scaling_yarn_is_plain_rope():
    plain = YarnRope(theta=10_000.0, factor=1.0)
    expected = [10_000.0 ** (-2 * slot / 16) for slot in range(8)]
    assert inverse_frequencies(plain, 16).tolist() == pytest.approx(expected, rel=1e-6)
    assert concentration(plain) == 1.0


def test_rope_rotates_pairs_of_halves(random):
    dim, positions = 8, torch.tensor([0, 3, 5000])
    x = random(3, 2, dim)
    cos, sin = rope_tables(PUBLISHED, dim, positions)
    got = apply_rope(x, cos, sin)
    inverse = inverse_frequencies(PUBLISHED, dim)
    for token, position in enumerate(positions.tolist()):
        for head in range(2):
            for slot in range(dim // 2):
                angle = torch.tensor(position * inverse[slot].item())
                turned = torch.polar(torch.tensor(1.3465735902799727), angle)
                pair = torch.complex(x[token, head, slot], x[token, head, slot + dim // 2]) * turned
                assert got[token, head, slot].item() == pytest.approx(pair.real.item(), abs=2e-3)
                assert got[token, head, slot + dim // 2].item() == pytest.approx(pair.imag.item(), abs=2e-3)


def test_rope_scores_depend_on_distance_only(random):
    q, k = random(1, 1, 64), random(1, 1, 64)
    scores = []
    for start in (0, 700, 4096):
        tables = rope_tables(PUBLISHED, 64, torch.tensor([start, start + 9]))
        turned_k = apply_rope(k, *(table[:1] for table in tables))
        turned_q = apply_rope(q, *(table[1:] for table in tables))
        scores.append((turned_q * turned_k).sum().item())
    assert scores == pytest.approx([scores[0]] * 3, abs=2e-2)


def test_swiglu_clamps_and_interleaves(random):
    gate_up = random(4, 10, scale=8.0)
    for row, got in zip(gate_up.tolist(), swiglu(gate_up, 7.0).tolist(), strict=True):
        for index, value in enumerate(got):
            gate, up = min(row[2 * index], 7.0), min(max(row[2 * index + 1], -7.0), 7.0)
            assert value == pytest.approx(gate / (1 + math.exp(-1.702 * gate)) * (up + 1), abs=1e-4)
