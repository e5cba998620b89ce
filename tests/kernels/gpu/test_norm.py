"""Embedding, norms and what is added to the stream, against their twins, which are held to float64."""

from __future__ import annotations

import pytest
import torch

from mosso.kernels.gpu import norm

from .conftest import close
from .test_rope import flips, rounded

EPS = 1e-5


@pytest.fixture
def hidden(device):
    return 2880 if device.type == "cuda" else 712  # fewer would let the RMS of one token stray to its limit


def draw(*shape, device, dtype=torch.float32, scale=1.0):
    return (torch.randn(*shape, device=device) * scale).to(dtype)


@pytest.mark.parametrize("tokens", [1, 7])
def test_embed(device, dtype, hidden, tokens):
    vocabulary = 50
    table = torch.randint(0, vocabulary, (5, 9), dtype=torch.int32, device=device)
    rows = torch.randint(0, 5, (tokens,), dtype=torch.int32, device=device)
    positions = torch.randint(0, 9, (tokens,), dtype=torch.int32, device=device)
    embedding = draw(vocabulary, hidden, device=device, dtype=dtype)
    got = norm.embed(table, rows, positions, embedding)
    assert got.dtype == torch.float32
    assert got.equal(norm.embed_twin(table, rows, positions, embedding))
    for t in range(tokens):
        assert got[t].equal(embedding[table[rows[t], positions[t]]].float())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_embedding_may_lie_on_the_host():
    embedding = torch.randn(50, 2880).bfloat16().pin_memory()
    table = torch.randint(0, 50, (5, 9), dtype=torch.int32, device="cuda")
    rows, positions = torch.randint(0, 5, (2, 7), dtype=torch.int32, device="cuda")
    got = norm.embed(table, rows, positions, embedding)
    assert got.is_cuda
    assert got.equal(norm.embed_twin(table, rows, positions, embedding.cuda()))
    assert got.equal(norm.embed_twin(table, rows, positions, embedding))


@pytest.mark.parametrize("tokens", [1, 3])
def test_rms_norm(device, dtype, hidden, tokens):
    x, weight = draw(tokens, hidden, device=device, scale=30), draw(hidden, device=device)
    counts = torch.full((32,), 7, dtype=torch.int32, device=device)
    before = x.clone()
    got = norm.rms_norm(x, weight, EPS, dtype, clear=counts)
    want = norm.rms_norm_twin(x, weight, EPS, dtype)
    assert got.dtype == dtype
    close(got, want, **flips(dtype))
    wide = x.double()
    close(want, wide / (wide.square().mean(-1, keepdim=True) + EPS).sqrt() * weight, **rounded(dtype))
    assert not counts.any()
    assert x.equal(before)


@pytest.mark.parametrize("tokens", [1, 7])
def test_add_rms_norm(device, dtype, hidden, tokens):
    x, weight = draw(tokens, hidden, device=device), draw(hidden, device=device)
    delta = draw(tokens, hidden, device=device, dtype=dtype)
    same = x.clone()
    total = x.double() + delta.double()
    got, want = norm.add_rms_norm(x, delta, weight, EPS), norm.add_rms_norm_twin(same, delta, weight, EPS)
    assert x.equal(same)
    close(x, total, worst=1e-6, rms=1e-6)
    close(got, want, **flips(dtype))


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("parts", [1, 4])
def test_combine(device, dtype, hidden, tokens, parts):
    x, weight = draw(tokens, hidden, device=device), draw(hidden, device=device)
    added = draw(tokens, parts, hidden, device=device, dtype=dtype)
    alone, same = x.clone(), x.clone()
    total = x.double() + added.double().sum(1)
    got = norm.combine_rms_norm(x, added, weight, EPS, dtype)
    want = norm.combine_rms_norm_twin(same, added, weight, EPS, dtype)
    norm.combine(alone, added)
    assert x.equal(same)
    assert x.equal(alone)
    close(x, total, worst=1e-6, rms=1e-6)
    close(got, want, **flips(dtype))
