"""The output head and the draw inside it, against their twins and against the distribution itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import triton
import triton.language as tl

from mosso.kernels import noise
from mosso.kernels.gpu import head as gpu
from mosso.kernels.gpu.noise import gumbel, row_state, row_states

from .conftest import close

EPS = 1e-5
ROWS = [1, 2, 5, 17, 40, 70]


@pytest.fixture
def sizes(device):
    """Vocabulary and hidden size: gpt-oss's, and small ones that no tile divides."""
    return (201088, 2880) if device.type == "cuda" else (333, 72)


@dataclasses.dataclass
class Inputs:
    h: torch.Tensor
    weight: torch.Tensor
    gain: torch.Tensor
    temperature: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor

    @property
    def draw(self):
        return self.temperature, self.seed, self.position


def make(rows, sizes, device, dtype, *, spread=3.0):
    """Logits of `spread`; every third row greedy."""
    vocab_size, hidden = sizes
    weight = (torch.randn(vocab_size, hidden, device=device) * spread * hidden**-0.5).to(dtype)
    temperature = torch.rand(rows, device=device) + 0.3
    temperature[::3] = 0
    return Inputs(
        h=torch.randn(rows, hidden, device=device) * 20,
        weight=weight,
        gain=torch.rand(hidden, device=device) + 0.5,
        temperature=temperature,
        seed=torch.randint(-(2**63), 2**63 - 1, (rows,), device=device),
        position=torch.randint(0, 131072, (rows,), dtype=torch.int32, device=device),
    )


def same_draws(got, want, logits, inputs):
    """Equal tokens, but where two candidates are as good as equal: the kernels' logits are summed in another
    order (on the matrix units with truncation) and their noise has an error of up to 1e-5."""
    assert got.dtype == torch.int32
    warm = inputs.temperature > 0
    scaled = logits / torch.where(warm, inputs.temperature, 1.0)[:, None]
    noisy = scaled + warm[:, None] * noise.gumbel(inputs.seed, inputs.position.long(), logits.shape[1])
    regret = noisy.gather(1, want[:, None].long()) - noisy.gather(1, got[:, None].long())
    assert regret.max() < 1e-3
    assert (got != want).sum() <= 2


@triton.jit
def _noise_kernel(seed, position, out, start, BLOCK: tl.constexpr, PTX: tl.constexpr):  # noqa: N803
    s = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    state = row_state(tl.load(seed + s), tl.load(position + s))
    tl.store(out + s * BLOCK * tl.num_programs(1) + at, gumbel(state, start + at, PTX))


def noise_of(fraction):
    """The noise of 40 random bits, whose uniform number is rounded to float32 as its definition says."""
    u = ((fraction.float() + 0.5) * 2.0**-40).clamp(max=1 - 2.0**-24).double()
    return -torch.log(-torch.log1p(-u))


def test_noise(device):
    """Within 1e-5 of float64's logarithms of the same random bits, also far from token 0."""
    size = 1 << 18 if device.type == "cuda" else 1 << 14
    seed = torch.tensor([0, -1, 2**63 - 1, -(2**63), 12345], device=device)
    position = torch.tensor([0, 1, 7, 131071, 2**31 - 1], dtype=torch.int32, device=device)
    start = (1 << 18) - size
    got = torch.full((len(seed), size), torch.nan, device=device)
    grid = (len(seed), size // 4096)
    _noise_kernel[grid](seed, position, got, start, BLOCK=4096, PTX=device.type == "cuda")
    bits = noise.random_bits(seed, position.long(), start + size)[:, start:]
    fraction = (bits >> 24) & ((1 << 40) - 1)
    want = noise_of(fraction)
    assert (got - want).abs().max() < 1e-5
    assert (got - noise.gumbel(seed, position.long(), start + size)[:, start:]).abs().max() < 1e-5


def test_noise_tails(device):
    """The uniform numbers at which the two logarithms change their form, and the ends of the range."""
    fraction = torch.tensor(
        [0, 1, 2**16, 2**36 - 2**15, 2**36, 2**36 + 2**15, 2**39, 2**40 - 2**15, 2**40 - 1]
    )
    want = noise_of(fraction)
    state = torch.tensor([state_of(int(f) << 24) for f in fraction], device=device)
    got = torch.full((len(fraction),), torch.nan, device=device)
    _noise_of_state_kernel[(len(fraction),)](state, got, PTX=device.type == "cuda")
    assert (got.cpu() - want).abs().max() < 1e-5


@triton.jit
def _noise_of_state_kernel(state, out, PTX: tl.constexpr):  # noqa: N803
    s = tl.program_id(0)
    token = tl.zeros((1,), tl.int32)
    noise = gumbel(tl.load(state + s).to(tl.uint64, bitcast=True), token, PTX)
    tl.store(out + s + tl.arange(0, 1), noise)


def state_of(bits):
    """The row state whose random bits of token 0 are `bits`: splitmix64 is a bijection, undone here."""
    modulus = 1 << 64

    def unshift(x, shift):
        y = x
        for _ in range(64 // shift + 1):
            y = x ^ (y >> shift)
        return y

    x = unshift(bits, 31)
    for multiplier, shift in ((0x94D049BB133111EB, 27), (0xBF58476D1CE4E5B9, 30)):
        x = unshift(x * pow(multiplier, -1, modulus) % modulus, shift)
    state = (x - 0x9E3779B97F4A7C15) % modulus
    return state - modulus if state >> 63 else state


def test_row_states(device):
    seed = torch.randint(-(2**63), 2**63 - 1, (131,), device=device)
    position = torch.randint(0, 131072, (131,), dtype=torch.int32, device=device)
    gamma = 0x9E3779B97F4A7C15 - (1 << 64)
    want = noise.mix(noise.mix(seed + gamma) + position.long() * gamma)
    assert row_states(seed, position).equal(want)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("normed", [False, True])
def test_head(device, dtype, sizes, rows, normed):
    inputs = make(rows, sizes, device, dtype)
    norm = (inputs.gain, EPS) if normed else None
    h = inputs.h if normed else (inputs.h / 20).to(dtype)
    got, want = gpu.head(h, inputs.weight, norm=norm), gpu.head_twin(h, inputs.weight, norm=norm)
    assert got.dtype == torch.float32
    # A norm summed in another order can round a few of its elements to their neighbours.
    close(got, want, worst=2e-3 if normed else 5e-5, rms=1e-3 if normed else 5e-5)
    x = h.double()
    if normed:
        x = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * inputs.gain
    close(want, x @ inputs.weight.double().T, worst=1e-2, rms=5e-3)


@pytest.mark.parametrize("rows", [*ROWS, 300])
def test_head_sample(device, dtype, sizes, rows):
    """Without a norm: the products are exact, so the logits are those of the twin up to float32's sums."""
    inputs = make(rows, sizes, device, dtype)
    h = (inputs.h / 20).to(dtype)
    got = gpu.head_sample(h, inputs.weight, *inputs.draw)
    want = gpu.head_sample_twin(h, inputs.weight, *inputs.draw)
    same_draws(got, want, gpu.head_twin(h, inputs.weight), inputs)


@pytest.mark.parametrize("rows", [1, 5, 70])
def test_head_sample_of_the_stream(device, dtype, sizes, rows):
    """With a norm: held to the logits that the head itself writes, which are the same numbers."""
    inputs = make(rows, sizes, device, dtype)
    norm = (inputs.gain, EPS)
    got = gpu.head_sample(inputs.h, inputs.weight, *inputs.draw, norm=norm)
    logits = gpu.head(inputs.h, inputs.weight, norm=norm)
    warm = inputs.temperature > 0
    drawn = noise.draw(
        logits / torch.where(warm, inputs.temperature, 1.0)[:, None], inputs.seed, inputs.position.long()
    )
    same_draws(got, torch.where(warm, drawn, logits.argmax(-1)).int(), logits, inputs)


@pytest.mark.parametrize("rows", [1, 6])
def test_a_row_draws_as_it_does_alone(device, dtype, sizes, rows):
    """Noise comes from the row's own seed and position, whatever stands beside it."""
    inputs = make(rows + 3, sizes, device, dtype)
    h = (inputs.h / 20).to(dtype)
    together = gpu.head_sample(h, inputs.weight, *inputs.draw)
    alone = gpu.head_sample(h[:rows].clone(), inputs.weight, *(x[:rows].clone() for x in inputs.draw))
    assert alone.equal(together[:rows])


@pytest.mark.parametrize("rows", [1, 3])
def test_ties_go_to_the_lowest_id(device, dtype, sizes, rows):
    vocab_size, hidden = sizes
    weight = torch.ones(vocab_size, hidden, device=device, dtype=dtype)
    weight[:7] = -1
    weight[-1] = -1
    h = torch.ones(rows, hidden, device=device, dtype=dtype)
    cold = torch.zeros(rows, device=device)
    seed = torch.zeros(rows, dtype=torch.int64, device=device)
    position = torch.zeros(rows, dtype=torch.int32, device=device)
    assert gpu.head_sample(h, weight, cold, seed, position).tolist() == [7] * rows


@pytest.mark.parametrize("rows", [1, 5])
def test_the_token_becomes_known(device, dtype, sizes, rows):
    inputs = make(rows, sizes, device, dtype)
    h = (inputs.h / 20).to(dtype)
    table = torch.full((8, 12), -1, dtype=torch.int32, device=device)
    row_ids = torch.randperm(8, device=device)[:rows].int()
    positions = torch.randint(0, 11, (rows,), dtype=torch.int32, device=device)
    tokens = gpu.head_sample(h, inputs.weight, *inputs.draw, write=(table, row_ids, positions))
    want = torch.full_like(table, -1)
    gpu.append_twin(tokens, (want, row_ids, positions))
    assert table.equal(want)
    assert (table >= 0).sum() == rows


def test_nan_is_still_a_token(device, dtype, sizes):
    for rows in (1, 3):
        inputs = make(rows, sizes, device, dtype)
        h = torch.full_like(inputs.h, torch.nan).to(dtype)
        tokens = gpu.head_sample(h, inputs.weight, *inputs.draw)
        assert ((tokens >= 0) & (tokens < sizes[0])).all()


CONFIGS = [
    (1, gpu.RowConfig(block_v=2, programs=7, stages=1, warps=2)),
    (1, gpu.RowConfig(block_v=8, programs=1, stages=2, warps=4)),
    (1, gpu.TileConfig(block_v=64, block_s=16, block_k=128, stages=3, warps=4)),
    (40, gpu.TileConfig(block_v=128, block_s=32, block_k=64, stages=3, warps=4)),
    (40, gpu.TileConfig(block_v=128, block_s=128, block_k=64, stages=3, warps=8)),
]


@pytest.mark.parametrize(("rows", "config"), CONFIGS)
def test_any_config(device, dtype, sizes, rows, config):
    inputs = make(rows, sizes, device, dtype)
    h = (inputs.h / 20).to(dtype)
    logits = gpu.head_twin(h, inputs.weight)
    close(gpu.head(h, inputs.weight, config=config), logits, worst=5e-5, rms=5e-5)
    got = gpu.head_sample(h, inputs.weight, *inputs.draw, config=config)
    same_draws(got, gpu.head_sample_twin(h, inputs.weight, *inputs.draw), logits, inputs)


@pytest.mark.parametrize("shared_memory", [99 << 10, 163 << 10, 227 << 10])
def test_configs_fit_the_chip(shared_memory):
    for rows in range(1, 600):
        config = gpu.config_for(rows, shared_memory)
        if isinstance(config, gpu.RowConfig):
            used = config.stages * config.block_v * 4096 * 2
        else:
            used = config.stages * (config.block_v + config.block_s) * config.block_k * 2
        assert used <= shared_memory


def test_the_distribution(device, dtype):
    """Many seeds of one row of few tokens: within the chi-square limit that 1 fair sampler in 10^5 breaks."""
    vocab_size, rows = 8, 1024
    weight = torch.zeros(vocab_size, 16, device=device, dtype=dtype)
    weight[:, 0] = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5])
    h = torch.zeros(rows, 16, device=device, dtype=dtype)
    h[:, 0] = 1
    temperature = torch.full((rows,), 0.8, device=device)
    seed = torch.arange(rows, device=device)
    position = torch.full((rows,), 3, dtype=torch.int32, device=device)
    tokens = gpu.head_sample(h, weight, temperature, seed, position)
    counts = tokens.long().bincount(minlength=vocab_size).double()
    expected = (weight[:, 0].double() / 0.8).softmax(0) * rows
    assert ((counts - expected).square() / expected).sum() < 35.3  # 7 degrees of freedom
