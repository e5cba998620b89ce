"""MXFP4 against its definition, byte by byte, and rounding against an exhaustive search."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.kernels.mxfp4 import VALUES, dequantize, fake_quantize, quantize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dequantize_every_byte_and_scale(dtype):
    blocks = torch.arange(256, dtype=torch.uint8).view(16, 1, 16).repeat(1, 255, 1)
    scales = torch.arange(255, dtype=torch.uint8).repeat(16, 1)
    got = dequantize(blocks, scales, dtype).view(16, 255, 32).tolist()
    for row, scale in itertools.product(range(16), (0, 1, 126, 127, 128, 250)):
        for index in range(32):
            byte = row * 16 + index // 2
            nibble = byte & 15 if index % 2 == 0 else byte >> 4
            assert got[row][scale][index] == math.ldexp(VALUES[nibble], scale - 127)


def test_the_values_are_e2m1():
    assert VALUES == (0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6)


def test_shapes():
    blocks, scales = quantize(torch.randn(3, 5, 96))
    assert blocks.shape == (3, 5, 3, 16)
    assert scales.shape == (3, 5, 3)
    assert dequantize(blocks, scales, torch.float32).shape == (3, 5, 96)


def test_an_axis_that_is_no_multiple_of_32_is_refused():
    with pytest.raises(ValueError, match="33"):
        quantize(torch.randn(2, 33))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([-20, -3, 0, 5]))
def test_stored_values_come_back_unchanged(seed, exponent):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (4, 2, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(120 + exponent, 135 + exponent, (4, 2), dtype=torch.uint8, generator=generator)
    values = dequantize(blocks, scales, torch.float32)
    assert torch.equal(dequantize(*quantize(values), torch.float32), values)


def test_rounding_is_nearest_at_a_scale_no_worse_than_any(random):
    weight = random(8, 64)
    got = dequantize(*quantize(weight), torch.float32)
    groups = weight.view(-1, 32)
    errors = []
    for exponent in range(-8, 4):
        table = torch.tensor(VALUES) * 2.0**exponent
        errors.append((groups[..., None] - table).abs().amin(-1).square().sum(-1))
    best = torch.stack(errors).amin(0)
    assert torch.allclose((got.view(-1, 32) - groups).square().sum(-1), best, rtol=1e-5)


def test_ties_go_to_the_even_code():
    midpoints = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    group = torch.cat((midpoints, -midpoints, torch.full((18,), 6.0)))  # sixes keep the scale at 1
    expected = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    got = dequantize(*quantize(group), torch.float32)
    assert torch.equal(got[:7], expected)
    assert torch.equal(got[7:14], -expected)


def test_zeros_and_extremes():
    for value in (0.0, 1e-38, -1e38):
        weight = torch.full((32,), value)
        got = dequantize(*quantize(weight), torch.float32)
        assert torch.isfinite(got).all()
        assert torch.allclose(got, weight, rtol=0.34, atol=1e-37)


def test_fake_quantize_is_what_is_stored_and_passes_gradients(random):
    weight = random(4, 64).requires_grad_()
    held = fake_quantize(weight)
    assert torch.allclose(held, dequantize(*quantize(weight), torch.float32), atol=1e-6)
    slope = random(4, 64)
    (held * slope).sum().backward()
    assert torch.equal(weight.grad, slope)


def test_fake_quantize_without_gradients_is_exact(random):
    weight = random(4, 64)
    assert torch.equal(fake_quantize(weight), dequantize(*quantize(weight), torch.float32))
