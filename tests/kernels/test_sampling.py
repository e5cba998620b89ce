"""Noise, transforms and draws: exact supports, hand computation, and frequencies with generous bounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.kernels.noise import gumbel, random_bits
from mosso.kernels.sampling import Bias, Penalties, SamplingRows, logprobs, penalize, sample, truncate

MASK = (1 << 64) - 1


def rows(n, **given):
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0, "position": 0}
    flags = {name: given.pop(name) for name in ("draws", "truncates") if name in given}
    values = {
        name: torch.as_tensor(given.get(name, value)).expand(n).clone() for name, value in defaults.items()
    }
    return SamplingRows(**values, **flags)


def splitmix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_bits_equal_splitmix64_in_big_integers(seed, position, size):
    gamma = 0x9E3779B97F4A7C15
    state = splitmix((splitmix((seed + gamma) & MASK) + position * gamma) & MASK)
    expected = [splitmix((state + (token + 1) * gamma) & MASK) for token in range(size)]
    got = random_bits(torch.tensor([seed]), torch.tensor([position]), size)[0].tolist()
    assert [value & MASK for value in got] == expected


def test_splitmix64_itself_on_its_published_vector():
    """The first outputs of the generator seeded with 1234567, as its authors' program prints them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    gamma = 0x9E3779B97F4A7C15
    assert [splitmix((1234567 + gamma * n) & MASK) for n in (1, 2, 3)] == expected


def test_gumbel_noise_has_the_distribution():
    noise = gumbel(torch.arange(50), torch.arange(50) * 7, 4000)
    assert torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.02)
    for level in (-1.0, 0.0, 1.0, 4.0):
        assert (noise < level).float().mean().item() == pytest.approx(math.exp(-math.exp(-level)), abs=0.01)


def test_neighbouring_seeds_positions_and_tokens_are_uncorrelated():
    noise = gumbel(torch.arange(300), torch.zeros(300, dtype=torch.int64), 300)
    shifted = gumbel(torch.arange(300), torch.ones(300, dtype=torch.int64), 300)
    for other in (noise.roll(1, 0), noise.roll(1, 1), shifted, shifted.roll(1, 0)):
        assert abs(torch.corrcoef(torch.stack((noise.flatten(), other.flatten())))[0, 1].item()) < 0.02


def test_draws_follow_the_distribution():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draws = 20_000
    logits = probabilities.log().expand(draws, 4)
    tokens = sample(logits, rows(draws, position=torch.arange(draws), truncates=False))
    assert (tokens.bincount(minlength=4) / draws - probabilities).abs().max() < 0.015


def test_temperature_sharpens():
    logits = torch.tensor([1.0, 0.0]).expand(20_000, 2)
    tokens = sample(logits, rows(20_000, temperature=0.5, position=torch.arange(20_000)))
    assert (tokens == 0).float().mean().item() == pytest.approx(1 / (1 + math.exp(-2)), abs=0.015)


def test_a_rare_token_is_drawn_as_often_as_it_should_be():
    """Probability 1e-4 among one other: 40 expected of 400,000."""
    logits = torch.tensor([0.0, math.log(1e-4)]).expand(400_000, 2)
    tokens = sample(logits, rows(400_000, position=torch.arange(400_000), truncates=False))
    assert 15 < (tokens == 1).sum().item() < 75


def test_greedy_rows_take_the_best_beside_rows_that_draw():
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    temperature = torch.where(torch.arange(64) % 2 == 0, 0.0, 5.0)
    tokens = sample(logits, rows(64, temperature=temperature, position=torch.arange(64)))
    best = logits.argmax(-1)
    assert torch.equal(tokens[::2], best[::2])
    assert not torch.equal(tokens[1::2], best[1::2])
    assert torch.equal(sample(logits, rows(64, temperature=0.0, draws=False)), best)


def test_a_row_draws_the_same_token_whatever_shares_its_batch():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(33, 1003, generator=generator)
    batch = rows(
        33,
        temperature=torch.rand(33, generator=generator) + 0.2,
        top_k=torch.randint(0, 40, (33,), generator=generator),
        top_p=torch.rand(33, generator=generator) * 0.5 + 0.5,
        min_p=torch.rand(33, generator=generator) * 0.05,
        seed=torch.randint(-(2**62), 2**62, (33,), generator=generator),
        position=torch.randint(0, 5000, (33,), generator=generator),
    )
    together = sample(logits, batch)
    order = torch.randperm(33, generator=generator)
    for subset in (order, order[:5], *(torch.tensor([row]) for row in range(33))):
        values = (getattr(batch, name)[subset] for name in batch.__slots__[:6])
        assert torch.equal(sample(logits[subset], SamplingRows(*values)), together[subset])


def support(logits, **given):
    batch = rows(1, **given)
    kept = truncate(torch.tensor([logits]), batch.top_k, batch.top_p, batch.min_p)[0]
    return set(torch.isfinite(kept).nonzero().flatten().tolist())


LOGITS = [math.log(p) for p in (0.1, 0.4, 0.2, 0.25, 0.05)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 9}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.6}, {1, 3}),
        ({"top_p": 0.7}, {1, 2, 3}),
        ({"top_p": 0.999}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.0}, {1}),
        ({"min_p": 0.49}, {1, 2, 3}),
        ({"min_p": 0.6}, {1, 3}),
        ({"min_p": 1.0}, {1}),
        ({"top_k": 3, "top_p": 0.75}, {1, 3}),  # of 0.4, 0.25, 0.2 renormalised the first two reach 0.76
        ({"top_k": 4, "min_p": 0.3}, {1, 2, 3}),
    ],
)
def test_supports(given, expected):
    assert support(LOGITS, **given) == expected


def test_top_k_of_equals_keeps_the_lower_ids():
    logits = [1.0, 2.0] * 500
    assert support(logits, top_k=2) == {1, 3}
    assert support(logits, top_k=502) == {*range(1, 1000, 2), 0, 2}


def test_truncation_leaves_kept_logits_alone():
    logits = torch.tensor([LOGITS])
    batch = rows(1, top_k=2)
    kept = truncate(logits, batch.top_k, batch.top_p, batch.min_p)
    assert torch.equal(kept[0, [1, 3]], logits[0, [1, 3]])


def test_penalties_by_hand():
    logits = torch.tensor([[2.0, -1.0, 3.0, 0.5]])
    penalties = Penalties(
        generated=torch.tensor([[3, 1, 0, 0]]),
        prompted=torch.tensor([[False, False, True, False]]),
        presence=torch.tensor([0.25]),
        frequency=torch.tensor([0.5]),
        repetition=torch.tensor([2.0]),
    )
    expected = [2.0 / 2 - 3 * 0.5 - 0.25, -1.0 * 2 - 0.5 - 0.25, 3.0 / 2, 0.5]
    assert penalize(logits, penalties)[0].tolist() == pytest.approx(expected)


def test_bias_adds_and_forbids():
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    bias = Bias(torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1]), torch.tensor([5.0, -torch.inf, -torch.inf]))
    kept = logits.clone()
    assert sample(logits, rows(2, temperature=0.0, draws=False), bias=bias).tolist() == [0, 0]
    draws = [sample(logits, rows(2, position=n), bias=bias)[1].item() for n in range(50)]
    assert set(draws) == {0}
    assert torch.equal(logits, kept)


def test_penalties_come_before_temperature():
    logits = torch.tensor([[1.0, 0.9]])
    penalties = Penalties(
        torch.tensor([[1, 0]]),
        torch.zeros(1, 2, dtype=torch.bool),
        torch.tensor([0.2]),
        torch.zeros(1),
        torch.ones(1),
    )
    assert sample(logits, rows(1, temperature=0.0, draws=False), penalties).item() == 1


def test_logprobs_are_the_models():
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(2)) * 3
    tokens = torch.tensor([4, 0, 19])
    got = logprobs(logits, tokens, 5)
    table = (logits.double().exp() / logits.double().exp().sum(-1, keepdim=True)).log()
    for row in range(3):
        order = sorted(range(20), key=lambda token, row=row: -table[row, token].item())[:5]
        assert got.top_tokens[row].tolist() == order
        assert got.top[row].tolist() == pytest.approx([table[row, token].item() for token in order], abs=1e-5)
        assert got.chosen[row].item() == pytest.approx(table[row, tokens[row]].item(), abs=1e-5)
    assert logprobs(logits, tokens, 0).top.shape == (3, 0)
