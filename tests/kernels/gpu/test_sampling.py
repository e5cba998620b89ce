"""Draws from truncated rows and log probabilities, against their twins, which sort."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mosso.kernels import noise
from mosso.kernels.gpu import sampling as gpu
from mosso.kernels.sampling import restrict, truncate


@pytest.fixture(autouse=True)
def small_blocks(device, monkeypatch):
    """Small rows still have several parts and blocks."""
    if device.type != "cuda":
        monkeypatch.setattr(gpu, "SURVEY_BLOCK", 64)
        monkeypatch.setattr(gpu, "SETTLE_BLOCK", 128)


@pytest.fixture
def vocab_size(device):
    return 201088 if device.type == "cuda" else 277


@pytest.fixture
def rows(device):
    return 256 if device.type == "cuda" else 12


@dataclasses.dataclass
class Parameters:
    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor

    @property
    def all(self):
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


def parameters(rows, device, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Each a number for all rows or a list that is repeated over the rows."""

    def over_rows(values, dtype):
        values = torch.as_tensor(values).reshape(-1)
        return values.repeat(rows // len(values) + 1)[:rows].to(device=device, dtype=dtype)

    return Parameters(
        temperature=over_rows(temperature, torch.float32),
        top_k=over_rows(top_k, torch.int32),
        top_p=over_rows(top_p, torch.float32),
        min_p=over_rows(min_p, torch.float32),
        seed=torch.randint(-(2**63), 2**63 - 1, (rows,), device=device),
        position=torch.randint(0, 131072, (rows,), dtype=torch.int32, device=device),
    )


def away_from_the_edge(logits, with_):
    """The same parameters with each top_p moved to the middle between two tokens' cumulated probabilities.

    There float32's rounding of sums (around 1e-6, in the twin's running sum up to 1e-5) cannot change which
    tokens are kept; every row's own logits decide where that is.
    """
    scaled = (logits / torch.where(with_.temperature == 0, 1.0, with_.temperature)[:, None]).double()
    ordered = scaled.sort(dim=-1, descending=True).values
    kept = torch.where(with_.top_k > 0, with_.top_k, logits.shape[1])[:, None]
    ordered[torch.arange(logits.shape[1], device=logits.device) >= kept] = -torch.inf
    shares = ordered.softmax(-1)
    wide = shares > 1e-4  # else the middle is no safe distance from either
    after = shares.cumsum(-1)
    middle = torch.where(wide, after - shares / 2, -1.0)
    nearest = (middle - with_.top_p[:, None].double()).abs().argmin(-1, keepdim=True)
    moved = middle.gather(1, nearest).squeeze(1).float()
    return dataclasses.replace(with_, top_p=torch.where(with_.top_p < 1, moved, with_.top_p))


def check(logits, with_):
    """The twin's tokens, but where two of the support are as good as equal: the noise errs by up to 1e-5."""
    got, want = gpu.sample_truncated(logits, *with_.all), gpu.sample_truncated_twin(logits, *with_.all)
    assert got.dtype == torch.int32
    cold = with_.temperature == 0
    assert got[cold].equal(want[cold])
    scaled = logits / torch.where(cold, 1.0, with_.temperature)[:, None]
    support = truncate(scaled, with_.top_k.long(), with_.top_p, with_.min_p)
    noisy = support + noise.gumbel(with_.seed, with_.position.long(), logits.shape[1])
    regret = noisy.gather(1, want[:, None].long()) - noisy.gather(1, got[:, None].long())
    assert regret[~cold].le(1e-4).all()
    assert (got != want).sum() <= 1


def normal(rows, vocab_size, device, spread=2.0):
    return torch.randn(rows, vocab_size, device=device) * spread


TRUNCATIONS = [
    {},
    {"top_k": [1, 2, 7, 50, 300]},
    {"top_p": [0.0, 1e-6, 0.1, 0.5, 0.9, 0.99]},
    {"min_p": [0.01, 0.1, 0.9, 1.0]},
    {"top_k": [1, 40, 100, 0, 3], "top_p": [0.95, 0.5, 0.8]},
    {
        "top_k": [0, 40],
        "top_p": [1.0, 0.9, 0.7],
        "min_p": [0.0, 0.05, 0.02, 0.0],
        "temperature": [0, 0.7, 1.8],
    },
]


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_sample_truncated(device, rows, vocab_size, truncation):
    logits = normal(rows, vocab_size, device)
    logits[:, :9] += 8  # some that stand out, as in language, so that steps of top_p are wide
    check(logits, away_from_the_edge(logits, parameters(rows, device, **truncation)))


@pytest.mark.parametrize("rows", [1, 3])
def test_any_number_of_rows(device, vocab_size, rows):
    logits = normal(rows, vocab_size, device, spread=4.0)
    with_ = parameters(rows, device, temperature=[0.9, 0, 1.2], top_k=[30, 0], top_p=[0.9, 1.0, 0.6])
    check(logits, away_from_the_edge(logits, with_))


def test_ties(device, rows, vocab_size):
    """Many equal logits at the cut: of equals the lower ids are kept."""
    logits = normal(rows, vocab_size, device).mul(1.5).round()
    check(logits, parameters(rows, device, top_k=[1, 2, 5, 20, 60], temperature=[1.0, 0.5]))
    check(logits, parameters(rows, device, min_p=[0.3, 0.05, 1.0]))


@pytest.mark.parametrize("rows", [10])
def test_equal_logits(device, rows):
    """Nothing but ties. 256 shares of 1/256 sum without rounding, so top_p is exact, at the edge too."""
    logits = torch.full((rows, 256), 1.5, device=device)
    check(logits, parameters(rows, device, top_k=[1, 7, 255, 128, 0]))
    check(logits, parameters(rows, device, top_p=[0.0, 0.5, 2**-8, 255 / 256, 0.3]))
    check(logits, parameters(rows, device, top_k=[64], top_p=[0.5, 1 / 64, 0.25]))
    check(logits, parameters(rows, device, min_p=[1.0]))


def test_the_edge_of_min_p(device):
    """Most of the probability lies with tokens a tenth as likely as the likeliest: all kept, or none."""
    logits = torch.zeros(12, 200, device=device)
    logits[:, 1:] = torch.tensor(0.1).log()
    kept, dropped = (
        parameters(12, device, min_p=p, temperature=2.0) for p in (0.1**0.5 - 1e-4, 0.1**0.5 + 1e-4)
    )
    check(logits, kept)
    assert gpu.sample_truncated(logits, *kept.all).any()
    check(logits, dropped)
    assert not gpu.sample_truncated(logits, *dropped.all).any()


def test_the_edge_of_top_p(device):
    """Half as likely each as the one before: how many are kept is known."""
    logits = -torch.arange(1, 25, device=device).float().repeat(12, 1) * torch.tensor(2.0).log()
    for top_p, kept in ((0.51, 2), (0.74, 2), (0.76, 3)):
        with_ = parameters(12, device, top_p=top_p)
        check(logits, with_)
        assert gpu.sample_truncated(logits, *with_.all).max() < kept


def test_top_p_of_the_k_likeliest(device):
    """Shares that fall slowly: most draws from the k likeliest lie beyond the share p of these."""
    logits = -torch.arange(120, device=device).float().repeat(12, 1) / 10
    with_ = parameters(12, device, top_k=40, top_p=[0.6, 0.3])
    check(logits, away_from_the_edge(logits, with_))


def test_forbidden_tokens(device, rows, vocab_size):
    logits = normal(rows, vocab_size, device)
    logits[:, 3:-2] = -torch.inf
    with_ = parameters(rows, device, top_k=[0, 1, 3, 50], top_p=[1.0, 0.7, 0.3], min_p=[0.0, 0.2])
    with_ = away_from_the_edge(logits, with_)
    check(logits, with_)
    logits[:, 1:] = -torch.inf
    assert gpu.sample_truncated(logits, *with_.all).tolist() == [0] * rows
    logits = logits.roll(-1, 1)
    assert gpu.sample_truncated(logits, *with_.all).tolist() == [vocab_size - 1] * rows


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:All-NaN:RuntimeWarning")
@pytest.mark.parametrize("value", [torch.nan, -torch.inf, torch.inf])
def test_rows_without_a_distribution_end(device, value):
    """No promise but a token, and an end of the search; the last row is not truncated."""
    some = parameters(3, device, top_k=[5, 0, 0], top_p=[0.5, 0.5, 1.0], min_p=[0.1, 0.0, 0.0])
    logits = torch.full((3, 200), value, device=device)
    tokens = gpu.sample_truncated(logits, *some.all)
    assert ((tokens >= 0) & (tokens < 200)).all()


def test_the_range_of_the_kth_is_halved_to_its_end(device):
    """The bounds of the k likeliest's mass decide only at their end: between two neighbouring floats."""
    low = torch.tensor(1.0, device=device)
    high = torch.nextafter(low, low + 1)
    for rest in (low, torch.zeros_like(low), -low):
        logits = torch.full((3, 300), float(rest), device=device)
        logits[:, 20:60] = low
        logits[:, 100:120] = high
        with_ = parameters(3, device, top_k=40, top_p=[0.4875, 0.5125, 0.9875])
        check(logits, with_)


def test_the_token_becomes_known(device, vocab_size):
    logits = normal(5, vocab_size, device)
    table = torch.full((8, 12), -1, dtype=torch.int32, device=device)
    write = (table, torch.tensor([6, 0, 2, 7, 3], device=device).int(), torch.arange(5, device=device).int())
    tokens = gpu.sample_truncated(logits, *parameters(5, device, top_k=[3, 0]).all, write=write)
    want = torch.full_like(table, -1)
    gpu.append_twin(tokens, (want, *write[1:]))
    assert table.equal(want)


def near(got, want):
    """A logarithm's error is absolute."""
    assert torch.allclose(got.double(), want.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("top", [0, 1, 20])
def test_logprobs(device, vocab_size, rows, top):
    logits = normal(rows, vocab_size, device, spread=5.0)
    tokens = torch.randint(0, vocab_size, (rows,), dtype=torch.int32, device=device)
    got, want = gpu.logprobs(logits, tokens, top), gpu.logprobs_twin(logits, tokens, top)
    table = logits.double().log_softmax(-1)
    for result in (got, want):
        near(result.chosen, table.gather(1, tokens[:, None].long()).squeeze(1))
        assert result.top.shape == (rows, top)
    near(got.top, table.topk(top, dim=-1).values)
    assert got.top_tokens.equal(want.top_tokens)


def test_logprobs_of_forbidden_tokens(device, vocab_size):
    logits = normal(3, vocab_size, device)
    logits[:, 2:] = -torch.inf
    got = gpu.logprobs(logits, torch.tensor([0, 1, 2], dtype=torch.int32, device=device), 3)
    want = gpu.logprobs_twin(logits, torch.tensor([0, 1, 2], dtype=torch.int32, device=device), 3)
    assert got.chosen[2] == -torch.inf
    near(got.chosen, want.chosen)
    near(got.top, want.top)


def test_restrict(device, vocab_size, rows):
    logits = normal(rows, vocab_size, device)
    logits[1, 3] = torch.nan
    at = torch.tensor([0, 1, rows - 1], dtype=torch.int32, device=device)
    words = -(-vocab_size // 32)
    masks = torch.randint(-(2**31), 2**31 - 1, (3, words), dtype=torch.int32, device=device)
    masks[0] = 0
    masks[0, -1] = 1 << (vocab_size - 1) % 32 if vocab_size % 32 else -(2**31)  # the last token alone
    got, want = logits.clone(), logits.clone()
    gpu.restrict(got, at, masks)
    restrict(want, at, masks)
    assert got.equal(want) or got.nan_to_num(7.0).equal(want.nan_to_num(7.0))
    assert got[0].isfinite().nonzero().flatten().tolist() == [vocab_size - 1]
    others = [row for row in range(rows) if row not in (0, 1, rows - 1)]
    assert got[others].equal(logits[others]), "rows without a constraint"
    bits = masks[1, 5] >> torch.arange(32, device=device) & 1
    assert got[1, 160:192].isfinite().equal(bits.bool())
    kept = got[2].isfinite()
    assert got[2][kept].equal(logits[2][kept])


def test_a_restricted_row_draws_what_it_may(device, vocab_size):
    """Each kernel after it copes with rows of which one token is left."""
    logits = normal(4, vocab_size, device)
    masks = torch.zeros(4, -(-vocab_size // 32), dtype=torch.int32, device=device)
    left = [0, 31, 32, vocab_size - 1]
    for row, token in enumerate(left):
        masks[row, token // 32] = (
            torch.tensor(1 << token % 32).to(torch.int32) if token % 32 < 31 else -(2**31)
        )
    gpu.restrict(logits, torch.arange(4, dtype=torch.int32, device=device), masks)
    with_ = parameters(4, device, temperature=[0, 1.0], top_p=[1.0, 0.5], top_k=[0, 3])
    assert gpu.sample_truncated(logits, *with_.all).tolist() == left
