"""The C kernels against their torch twins, and the promise of equal bits whatever is computed beside a row.

Two limits hold everywhere: the worst element and the root mean square of the error, relative to the twin's
largest element and root mean square. Outputs start as NaN, so that what is not written shows.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from mosso.kernels import attention, cache, experts, linear, native, noise, norm, sampling
from mosso.kernels.experts import ExpandedExperts, PackedExperts
from mosso.kernels.mxfp4 import dequantize, quantize
from mosso.kernels.native import build
from mosso.kernels.operations import NATIVE, TWINS, operations_for

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason="no C compiler")

WORST, RMS = 1e-5, 2e-6
ROWS = (1, 2, 3, 4, 5, 9, 33)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    real = torch.empty
    monkeypatch.setattr(
        native.torch,
        "empty",
        lambda *shape, **kind: real(*shape, **kind).fill_(torch.nan if not kind else -1),
    )


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def assert_close(got, expected, worst=WORST, rms=RMS):
    assert got.shape == expected.shape
    error = (got - expected).double()
    assert error.abs().max() <= worst * expected.abs().max()
    assert error.square().mean().sqrt() <= rms * expected.double().square().mean().sqrt()


@pytest.mark.parametrize("columns", [1, 15, 16, 64, 100, 2880])
def test_rms_norm(random, threads, columns):
    x, weight = random(37, columns, scale=5.0), random(columns)
    assert_close(native.rms_norm(x, weight, 1e-5), norm.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (31, 33), (33, 64), (100, 96), (257, 2880), (5, 31)])
def test_linear(random, threads, storage, outputs, inputs):
    weight, bias = random(outputs, inputs).to(storage), random(outputs)
    for rows in ROWS:
        x = random(rows, inputs)
        expected = x.double() @ weight.double().T + bias
        assert_close(native.linear(x, weight, bias), expected.float())
        assert_close(native.linear(x, weight), linear.linear(x, weight))


def test_linear_of_no_rows_and_of_strided_rows(random):
    weight = random(40, 64)
    assert native.linear(random(0, 64), weight).shape == (0, 40)
    x = random(5, 3, 64)[:, 1]
    assert_close(native.linear(x, weight), linear.linear(x, weight))


@pytest.mark.parametrize("pool_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [8, 64, 96])
def test_rotate_and_store(random, threads, pool_type, dim):
    tokens, heads, kv_heads = 21, 6, 2
    qkv, angles = random(tokens, heads + 2 * kv_heads, dim), random(tokens, dim // 2)
    slots = torch.randperm(8 * 4, generator=torch.Generator().manual_seed(1))[:tokens]
    pools = [torch.full((2, kv_heads, 8, 4, dim), 7.0, dtype=pool_type) for _ in range(2)]
    got = native.rotate_and_store(qkv, angles.cos(), angles.sin(), pools[0], slots)
    expected = cache.rotate_and_store(qkv, angles.cos(), angles.sin(), pools[1], slots)
    assert_close(got, expected)
    assert_close(
        pools[0].float(), pools[1].float(), *((WORST, RMS) if pool_type == torch.float32 else (5e-3, 1e-3))
    )
    assert ((pools[0] == 7) == (pools[1] == 7)).all()


def attention_case(random, heads, kv_heads, dim, pool_type=torch.float32, page=4):
    counts, contexts = (1, 6, 1, 13, 2), (1, 17, 70, 13, 300)
    logical = -(-max(contexts) // page)
    total = logical * len(counts)
    pages = torch.randperm(total, generator=torch.Generator().manual_seed(2)).view(-1, logical).int()
    pool = random(2, kv_heads, total, page, dim).to(pool_type)
    starts = torch.tensor([0, *counts]).cumsum(0).int()
    q = random(sum(counts), heads, dim, scale=2.0)
    return q, pool, pages, random(heads), starts, torch.tensor(contexts).int()


@pytest.mark.parametrize("window", [None, 1, 5, 128])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 16), (8, 1, 64), (3, 3, 80), (16, 2, 128)])
def test_paged_attention(random, threads, window, heads, kv_heads, dim):
    case = attention_case(random, heads, kv_heads, dim)
    assert_close(native.paged_attention(*case, window), attention.paged_attention(*case, window))


def test_paged_attention_over_bfloat16(random):
    case = attention_case(random, 8, 2, 64, torch.bfloat16, page=16)
    assert_close(native.paged_attention(*case, 50), attention.paged_attention(*case, 50))


def test_paged_attention_never_reads_stale_or_unwritten_memory(random):
    q, pool, pages, sinks, starts, contexts = attention_case(random, 4, 2, 16)
    window, page = 5, 4
    expected = native.paged_attention(q, pool, pages, sinks, starts, contexts, window)
    counts = starts[1:] - starts[:-1]
    readable = torch.zeros(pool.shape[2], page, dtype=torch.bool)
    for row in range(len(counts)):
        oldest = max(0, int(contexts[row] - counts[row]) - window + 1)
        for position in range(oldest, int(contexts[row])):
            readable[pages[row, position // page], position % page] = True
        pages[row, : oldest // page] = 2**30
    pool[:, :, ~readable] = torch.nan
    assert torch.equal(native.paged_attention(q, pool, pages, sinks, starts, contexts, window), expected)


def test_extreme_scores_and_sinks(random):
    q, pool, pages, sinks, starts, contexts = attention_case(random, 4, 2, 16)
    for scale, sink in ((200.0, 0.0), (0.01, 300.0), (1.0, -300.0)):
        case = q * scale, pool, pages, sinks * 0 + sink, starts, contexts
        assert_close(native.paged_attention(*case, None), attention.paged_attention(*case, None), 1e-4, 1e-4)


def make_experts(random, form, count, hidden, inner):
    gate_up, down = random(count, 2 * inner, hidden, scale=0.2), random(count, hidden, inner, scale=0.2)
    biases = random(count, 2 * inner), random(count, hidden)
    if form == "packed":
        return PackedExperts(*quantize(gate_up), biases[0], *quantize(down), biases[1])
    dtype = getattr(torch, form)
    return ExpandedExperts(gate_up.to(dtype), biases[0], down.to(dtype), biases[1])


@pytest.mark.parametrize("form", ["packed", "float32", "bfloat16"])
@pytest.mark.parametrize(
    ("count", "top_k", "hidden", "inner"), [(4, 1, 32, 32), (8, 4, 96, 160), (33, 5, 64, 64)]
)
def test_moe(random, threads, form, count, top_k, hidden, inner):
    layer = make_experts(random, form, count, hidden, inner)
    router, bias = random(count, hidden), random(count)
    for rows in ROWS:
        x = random(rows, hidden, scale=3.0)
        got = native.moe(x, router, bias, layer, top_k, 7.0)
        # The shares pass the rounding of large router logits on: a wider limit than a product's.
        assert_close(got, experts.moe(x, router, bias, layer, top_k, 7.0), rms=1e-5)


def test_moe_of_odd_dense_sizes_and_of_no_rows(random):
    layer = make_experts(random, "float32", 3, 37, 19)
    router, bias = random(3, 37), random(3)
    x = random(11, 37)
    assert_close(native.moe(x, router, bias, layer, 2, 7.0), experts.moe(x, router, bias, layer, 2, 7.0))
    assert native.moe(x[:0], router, bias, layer, 2, 7.0).shape == (0, 37)


def test_more_rows_of_one_expert_than_a_task_takes_at_once(random):
    layer = make_experts(random, "packed", 2, 32, 32)
    x, chosen = random(700, 32), torch.zeros(700, 1, dtype=torch.int64)
    shares = torch.ones(700, 1)
    assert_close(native.mix(x, chosen, shares, layer, 7.0), experts.mix(x, chosen, shares, layer, 7.0))


def test_every_byte_and_many_scales_of_mxfp4():
    """Weight rows that hold every byte value, against one-hot activations: each value comes out exactly."""
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 1, 16).repeat(1, 4, 1, 1)
    scales = torch.tensor([1, 100, 127, 250], dtype=torch.uint8).repeat_interleave(16).view(1, 64, 1)
    down = torch.zeros(1, 32, 1, 16, dtype=torch.uint8), torch.full((1, 32, 1), 127, dtype=torch.uint8)
    zero = PackedExperts(blocks, scales, torch.zeros(1, 64), *down, torch.zeros(1, 32))
    dense = dequantize(blocks, scales, torch.float32)
    chosen, shares = torch.zeros(32, 1, dtype=torch.int64), torch.ones(32, 1)
    identity = ExpandedExperts(dense, torch.zeros(1, 64), torch.eye(32)[None], torch.zeros(1, 32))
    packed_down = PackedExperts(
        blocks, scales, zero.gate_up_bias, *quantize(torch.eye(32)[None]), zero.down_bias
    )
    got = native.mix(torch.eye(32), chosen, shares, packed_down, 7.0)
    assert_close(got, experts.mix(torch.eye(32), chosen, shares, identity, 7.0))


# ---- equal bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inputs", [64, 100, 512])
def test_linear_rows_do_not_depend_on_their_neighbours(random, threads, storage, inputs):
    weight, bias, x = random(70, inputs).to(storage), random(70), random(40, inputs)
    together = native.linear(x, weight, bias)
    for rows in (*ROWS, 17):
        assert torch.equal(native.linear(x[-rows:], weight, bias), together[-rows:])


@pytest.mark.parametrize("form", ["packed", "float32", "bfloat16"])
def test_expert_rows_do_not_depend_on_their_neighbours(random, threads, form):
    layer = make_experts(random, form, 8, 64, 96)
    router, bias, x = random(8, 64), random(8), random(60, 64)
    together = native.moe(x, router, bias, layer, 4, 7.0)
    for rows in (*ROWS, 17):
        assert torch.equal(native.moe(x[-rows:], router, bias, layer, 4, 7.0), together[-rows:])


@pytest.mark.parametrize("window", [None, 20])
def test_attention_rows_do_not_depend_on_their_neighbours(random, threads, window):
    q, pool, pages, sinks, starts, contexts = attention_case(random, 8, 2, 64)
    together = native.paged_attention(q, pool, pages, sinks, starts, contexts, window)
    for token in range(q.shape[0]):
        row = int((starts <= token).sum()) - 1
        context = contexts[row : row + 1] - (starts[row + 1] - token - 1)
        one = torch.tensor([0, 1], dtype=torch.int32)
        alone = native.paged_attention(
            q[token : token + 1], pool, pages[row : row + 1], sinks, one, context.int(), window
        )
        assert torch.equal(alone[0], together[token])


def test_threads_change_no_bit(random):
    weight, x = random(500, 96), random(20, 96)
    before = torch.get_num_threads()
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        results += [native.linear(x, weight) for _ in range(20)]
    torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


# ---- draw --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [1, 2, 255, 256, 257, 4096])
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
def test_draw(random, threads, vocab, scale):
    logits = random(300, vocab) * scale
    logits[:, 1::7] = -torch.inf
    seeds = torch.arange(300) * 0x1234567_89ABCDEF - 2**62
    positions = torch.arange(300) % 50
    expected = noise.draw(logits, seeds, positions)
    assert (
        native.draw(logits, seeds, positions) != expected
    ).sum() <= 1  # the logarithms may differ in a bit
    assert expected.unique().numel() > min(vocab - 1, 10) // 2


@pytest.mark.parametrize("vocab", [97, 1000, 4096])
@pytest.mark.parametrize("allowed", [1, 2, 9])
def test_draw_of_a_few_allowed_tokens(random, threads, vocab, allowed):
    rows = 300
    logits = torch.full((rows, vocab), -torch.inf)
    at = torch.stack([torch.randperm(vocab)[:allowed] for _ in range(rows)])
    at[0], at[1] = 0, vocab - 1
    logits.scatter_(1, at, random(rows, allowed))
    seeds, positions = torch.arange(rows), torch.arange(rows) % 50
    drawn = native.draw(logits, seeds, positions)
    assert (drawn[:, None] == at).any(1).all()
    assert (drawn != noise.draw(logits, seeds, positions)).sum() <= 1  # as above


def test_draw_of_no_rows_and_of_strided_parameters(random):
    assert native.draw(random(0, 9), torch.zeros(0).long(), torch.zeros(0).long()).shape == (0,)
    logits, both = random(40, 100), torch.arange(80).view(40, 2)
    expected = noise.draw(logits, both[:, 0], both[:, 1])
    assert torch.equal(native.draw(logits, both[:, 0], both[:, 1]), expected)


# ---- restrict ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 4097])
def test_restrict(random, threads, vocab):
    logits = random(300, vocab)
    logits[7] = torch.nan
    at = torch.randperm(300)[:200].int()
    masks = torch.randint(-(2**31), 2**31, (200, -(-vocab // 32) + 1), dtype=torch.int32)
    masks[3], masks[4] = -1, 0
    expected = logits.clone()
    sampling.restrict(expected, at, masks)
    native.restrict(logits, at, masks)
    assert torch.equal(logits.nan_to_num(7.0), expected.nan_to_num(7.0))


# ---- choosing and building --------------------------------------------------------------------------------


def test_the_native_kernels_are_chosen_for_float32_on_a_cpu(monkeypatch):
    cpu = torch.device("cpu")
    assert operations_for(cpu, torch.float32) is NATIVE
    assert operations_for(cpu, torch.bfloat16) is TWINS
    assert operations_for(torch.device("cuda"), torch.float32) is TWINS
    monkeypatch.setattr(native, "load", lambda: "no compiler")
    assert native.unavailable() == "no compiler"
    assert operations_for(cpu, torch.float32) is TWINS


@pytest.fixture
def fresh_build(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return build.load.__wrapped__, tmp_path / "mosso" / "native"


def test_a_library_is_built_once_and_kept(fresh_build, monkeypatch):
    load, folder = fresh_build
    load()
    (made,) = folder.iterdir()
    monkeypatch.setattr(build, "_compile", lambda path: pytest.fail("compiled again"))
    assert not isinstance(load(), str)
    monkeypatch.setattr(build, "_processor", lambda: "another")
    monkeypatch.setattr(build, "_compile", lambda path: made.rename(path))
    load()
    assert made not in folder.iterdir()


def test_a_damaged_library_is_built_again(fresh_build):
    load, folder = fresh_build
    folder.mkdir(parents=True)
    damaged = folder / f"kernels-{build._fingerprint()}.so"
    damaged.write_bytes(b"half a li")
    assert not isinstance(load(), str)
    assert damaged.stat().st_size > 1000


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:5000],
        lambda data: data[:-1],
        lambda data: data[:9000] + bytes(20_000) + data[29_000:],
    ],
)
def test_a_library_that_lost_a_part_ends_no_process(fresh_build, harm):
    """It would be mapped, and the process would be killed where it reads what is not there."""
    load, folder = fresh_build
    load()
    (made,) = folder.iterdir()
    data = made.read_bytes()
    made.unlink()  # this process has it mapped
    made.write_bytes(harm(data))
    code = """
import torch
from mosso.kernels import native
assert native.unavailable() is None
native.linear(torch.ones(4, 64), torch.ones(400, 64))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert build._is_whole(made)


@pytest.mark.parametrize("cache", ["/proc/no/such/folder", "~", None])
def test_without_a_place_to_keep_it_a_library_is_built_all_the_same(fresh_build, monkeypatch, cache):
    """An unwritable folder; a user without a home."""
    load, folder = fresh_build
    if cache is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(build.Path, "home", lambda: build.Path("~nobody-there").expanduser())
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", cache.replace("~", str(folder / "file")))
        folder.mkdir(parents=True)
        (folder / "file").write_text("not a folder")
    assert not isinstance(load(), str)


def test_without_a_compiler_there_is_a_reason(fresh_build, monkeypatch):
    load, _ = fresh_build
    monkeypatch.setenv("PATH", "")
    assert "no C compiler" in load()


def test_a_failing_compiler_leaves_nothing_and_says_why(fresh_build, monkeypatch):
    load, folder = fresh_build
    monkeypatch.setattr(build, "_FLAGS", ("--no-such-flag",))
    assert "no-such-flag" in load()
    assert list(folder.iterdir()) == []


def test_a_forked_child_has_its_own_threads(random):
    code = """
import os, sys, torch
from mosso.kernels import native
torch.set_num_threads(3)
x, w = torch.ones(4, 64), torch.ones(400, 64)
native.linear(x, w)
child = os.fork()
if child == 0:
    os._exit(0 if native.linear(x, w).eq(64).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(command, timeout=200, env=os.environ).returncode == 0
