"""Attention over scattered pages against the twins. What no query sees is NaN: pages, entries, other rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from mosso.kernels.gpu import attention
from mosso.kernels.gpu.attention import DecodeTiling, PrefillTiling
from mosso.kernels.gpu.launch import CHIPS
from mosso.kernels.gpu.tickets import TICKETS, tickets

from .conftest import close
from .test_rope import rerounded

CONTEXTS = [300, 1, 15, 16, 17, 127, 128, 129]
WINDOWS = [None, 20, 128, 200]


@dataclass(frozen=True)
class Heads:
    kv: int = 2
    group: int = 8
    dim: int = 64


@pytest.fixture
def heads(device):
    return Heads(kv=8) if device.type == "cuda" else Heads()


@dataclass
class Cache:
    """Rows of different lengths, all but what can be seen being NaN; the last row is scratch."""

    pool: torch.Tensor
    pages: torch.Tensor
    rows: torch.Tensor  # the device row of each context, in no order

    @property
    def scratch(self):
        return self.pages.shape[0] - 1


def cache(contexts, spans, heads, device, dtype, window=None, page_size=16, columns=None):
    """Context i ends with a span of spans[i] queries. Pages that only an earlier window saw are poisoned."""
    count = len(contexts)
    columns = columns or -(-max(contexts) // page_size)
    total = sum(-(-context // page_size) for context in contexts) + 4
    ids = torch.randperm(total)
    poisoned, scratch, *free = ids.tolist()
    pool = torch.full((2, heads.kv, total, page_size, heads.dim), float("nan"), device=device)
    pages = torch.full((count + 3, columns), poisoned, dtype=torch.int32)
    rows = torch.randperm(count + 2)[:count]
    for row, context, span in zip(rows.tolist(), contexts, spans, strict=True):
        first = 0 if window is None else max(0, context - span - window + 1)
        for page in range(first // page_size, -(-context // page_size)):
            pages[row, page] = free.pop()
        position = torch.arange(first, context)
        page = pages[row, position // page_size].long()
        entries = torch.randn(2, heads.kv, context - first, heads.dim, device=device)
        pool[:, :, page.to(device), (position % page_size).to(device)] = entries
    pages[-1] = scratch
    pool[:, :, scratch, 0] = torch.randn(2, heads.kv, heads.dim, device=device)
    return Cache(pool.to(dtype), pages.to(device), rows.int().to(device))


def queries(tokens, heads, device, dtype, beside=0):
    """Some whose softmax is flat, some whose is sharp; with `beside`, cut out of wider rows."""
    q = torch.randn(tokens, heads.kv * heads.group + beside, heads.dim, device=device)
    q *= torch.linspace(0.3, 3, tokens, device=device)[:, None, None]
    return q.to(dtype)[:, : heads.kv * heads.group]


def some_sinks(heads, device):
    sinks = torch.randn(heads.kv * heads.group, device=device) * 2
    sinks[0], sinks[1], sinks[2] = 25.0, -25.0, -torch.inf
    return sinks


def decode_inputs(contexts, heads, device, dtype, window=None, padding=0, beside=0, pool_dtype=None, **shape):
    held = cache(contexts, [1] * len(contexts), heads, device, pool_dtype or dtype, window, **shape)
    rows = torch.cat((held.rows, torch.full((padding,), held.scratch, dtype=torch.int32, device=device)))
    positions = torch.tensor([context - 1 for context in contexts] + [0] * padding, dtype=torch.int32)
    q = queries(len(contexts) + padding, heads, device, dtype, beside)
    return q, held.pool, held.pages, rows, positions.to(device), some_sinks(heads, device), window


def same_decode(inputs, **options):
    got = attention.decode_attention(*inputs, **options)
    want = attention.decode_attention_twin(*inputs)
    assert got.dtype == inputs[0].dtype
    assert got.is_contiguous()
    close(got, want, **rerounded(got.dtype))
    return got


@pytest.mark.parametrize("window", WINDOWS)
def test_decode(device, dtype, heads, window):
    same_decode(decode_inputs(CONTEXTS, heads, device, dtype, window, padding=3))


@pytest.mark.parametrize("splits", [1, 3, 8])
def test_splits(device, dtype, heads, splits):
    inputs = decode_inputs([300, 1, 64, 129], heads, device, dtype, padding=1)
    first = same_decode(inputs, splits=splits)
    assert attention.decode_attention(*inputs, splits=splits).equal(first), "parts are merged in one order"
    assert not tickets(inputs[0].device).any(), "tickets are left as they were found"


def test_one_token(device, dtype, heads):
    """The choice for one token splits its context most."""
    for context in (1, 65, 700):
        same_decode(decode_inputs([context], heads, device, dtype))


def test_a_window_is_not_split(device, dtype, heads):
    inputs = decode_inputs([40, 133], heads, device, dtype, 128)
    assert attention.decode_attention(*inputs, splits=3).equal(same_decode(inputs))


def test_more_splits_than_are_merged_at_once(device, dtype, heads):
    same_decode(decode_inputs([1300], heads, device, dtype), splits=40)


@pytest.mark.parametrize("window", [None, 128])
def test_decode_within_wider_rows(device, dtype, heads, window):
    inputs = decode_inputs([40, 133], heads, device, dtype, window, beside=2 * heads.kv)
    assert not inputs[0].is_contiguous()
    same_decode(inputs)


@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.float8_e4m3fn])
@pytest.mark.parametrize("window", [None, 128])
def test_decode_from_other_types(device, dtype, heads, window, pool_dtype):
    same_decode(decode_inputs([40, 133], heads, device, dtype, window, pool_dtype=pool_dtype))


@pytest.mark.parametrize("group", [1, 2, 32])
def test_groups(device, dtype, group):
    few = Heads(kv=2, group=group, dim=32)
    few_sinks = torch.randn(2 * group, device=device)
    *inputs, _, window = decode_inputs([40, 133], Heads(dim=32), device, dtype)
    inputs[0] = queries(2, few, device, dtype)
    same_decode((*inputs, few_sinks, window))
    same_decode((*inputs, few_sinks, window), splits=3)


@pytest.mark.parametrize("page_size", [4, 64])
@pytest.mark.parametrize("window", [None, 128])
def test_page_sizes(device, dtype, heads, window, page_size):
    same_decode(decode_inputs([40, 133], heads, device, dtype, window, page_size=page_size))
    same_prefill(span_inputs([40, 133], [40, 20], heads, device, dtype, window, page_size=page_size))


@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize(
    "cut", [DecodeTiling(1, 64, 1, 3), DecodeTiling(8, 16, 4, 2), DecodeTiling(2, 32, 2, 4)]
)
def test_decode_tilings(device, dtype, heads, window, cut):
    same_decode(decode_inputs([7, 64, 200], heads, device, dtype, window), config=cut)


def span_inputs(contexts, spans, heads, device, dtype, window=None, beside=0, pool_dtype=None, **shape):
    held = cache(contexts, spans, heads, device, pool_dtype or dtype, window, **shape)
    starts = torch.tensor([0, *spans]).cumsum(0).int().to(device)
    lens = torch.tensor(contexts, dtype=torch.int32, device=device)
    q = queries(sum(spans), heads, device, dtype, beside)
    return q, held.pool, held.pages, held.rows, starts, lens, some_sinks(heads, device), window


def same_prefill(inputs, **options):
    longest = int(inputs[4].diff().max())
    got = attention.prefill_attention(*inputs, max_query=longest, **options)
    want = attention.prefill_attention_twin(*inputs, max_query=longest)
    assert got.dtype == inputs[0].dtype
    close(got, want, **rerounded(got.dtype))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("deterministic", [False, True])
def test_prefill(device, dtype, heads, window, deterministic):
    contexts, spans = [1, 17, 129, 300, 300, 64], [1, 17, 5, 50, 1, 33]
    inputs = span_inputs(contexts, spans, heads, device, dtype, window)
    same_prefill(inputs, deterministic=deterministic)


@pytest.mark.parametrize("window", [None, 128])
def test_prefill_within_wider_rows(device, dtype, heads, window):
    inputs = span_inputs([40, 133], [40, 20], heads, device, dtype, window, beside=2 * heads.kv)
    assert not inputs[0].is_contiguous()
    same_prefill(inputs)


@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.float8_e4m3fn])
def test_prefill_from_other_types(device, dtype, heads, pool_dtype):
    same_prefill(span_inputs([40, 133], [40, 20], heads, device, dtype, pool_dtype=pool_dtype))


@pytest.mark.parametrize("window", [None, 128])
def test_bfloat16_queries_of_keys_in_eight_bits(device, heads, window):
    """Products in float16, in the interpreter too: exact keys and values, closer weights than bfloat16's."""
    dtype, held = torch.bfloat16, {"pool_dtype": torch.float8_e4m3fn}
    same_decode(decode_inputs([40, 133], heads, device, dtype, window, **held))
    same_prefill(span_inputs([40, 133], [40, 20], heads, device, dtype, window, **held))


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("cut", [PrefillTiling(64, 128, 4, 2), PrefillTiling(128, 128, 8, 3)])
def test_prefill_tilings(device, dtype, heads, window, cut):
    same_prefill(span_inputs([150, 300], [150, 20], heads, device, dtype, window), config=cut)


def cut_into(inputs, sizes):
    """The only span of `inputs`, computed as spans of these sizes, one call each."""
    q, pool, pages, rows, _, lens, sinks, window = inputs
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    assert ends[-1] == len(q)
    results = []
    for first, last in pairwise(ends):
        starts = torch.tensor([0, last - first], dtype=torch.int32, device=q.device)
        context = lens - (len(q) - last)
        results.append(
            attention.prefill_attention(
                q[first:last], pool, pages, rows, starts, context, sinks, window,
                max_query=last - first, deterministic=True,
            )
        )  # fmt: skip
    return torch.cat(results)


@pytest.mark.parametrize("window", [None, 20, 128])
def test_results_do_not_depend_on_the_cut(device, dtype, heads, window):
    """Whole, in chunks, and one by one: equal bits."""
    heads = Heads(kv=heads.kv if device.type == "cuda" else 1)
    context, span = (1037, 700) if device.type == "cuda" else (211, 45)
    inputs = span_inputs([context], [span], heads, device, dtype, window)
    whole = cut_into(inputs, [span])
    assert cut_into(inputs, [1, 6, 8, span - 15]).equal(whole)
    assert cut_into(inputs, [span - 13, 13]).equal(whole)
    assert cut_into(inputs, [1] * span).equal(whole)


def test_results_do_not_depend_on_the_batch(device, dtype, heads):
    contexts, spans = [90, 33, 140], [20, 33, 9]
    inputs = span_inputs(contexts, spans, heads, device, dtype, 128)
    q, pool, pages, rows, starts, lens, sinks, window = inputs
    whole = attention.prefill_attention(*inputs, max_query=33, deterministic=True)
    for span, (first, last) in enumerate(pairwise(starts.tolist())):
        alone = (
            q[first:last],
            pool,
            pages,
            rows[span : span + 1],
            starts[:1].repeat(2),
            lens[span : span + 1],
        )
        alone[4][1] = last - first
        got = attention.prefill_attention(*alone, sinks, window, max_query=last - first, deterministic=True)
        assert got.equal(whole[first:last])


def test_choices_of_splits():
    """There are tickets for all that split; each chip is filled by one token already."""
    for chip in CHIPS.values():
        found = [attention.split_of(pairs, chip.multiprocessors) for pairs in range(1, 2 * TICKETS)]
        assert len(set(found)) < 10, "each is compiled"
        for pairs, split in enumerate(found, start=1):
            assert 1 <= split.most <= attention.MOST_SPLITS
            assert split.most == 1 or pairs <= TICKETS
        assert attention.split_of(8, chip.multiprocessors).most * 8 >= 2 * chip.multiprocessors


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the interpreter is too slow")


@needs_gpu
@pytest.mark.parametrize("window", [None, 128])
def test_decode_of_many(device, dtype, heads, window):
    contexts = torch.randint(1, 4098, (64,)).tolist()
    same_decode(decode_inputs([4097, *contexts[1:]], heads, device, dtype, window))


@needs_gpu
@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize("context", [20_000, 131_072])
def test_long_contexts(device, dtype, heads, window, context):
    same_decode(decode_inputs([context], heads, device, dtype, window))
    same_decode(decode_inputs([context, 77, context // 3], heads, device, dtype, window))
    same_prefill(span_inputs([context, 500], [333, 500], heads, device, dtype, window))


@needs_gpu
@pytest.mark.parametrize("window", [None, 128])
def test_long_prompt(device, dtype, heads, window):
    same_prefill(span_inputs([8192], [8192], heads, device, dtype, window))


@needs_gpu
def test_more_than_two_billion_elements(device, dtype, heads):
    if torch.cuda.mem_get_info()[0] < 8 << 30:
        pytest.skip("needs 8 GiB of GPU memory")
    q, pool, pages, *rest = decode_inputs([300, 40], heads, device, dtype, pool_dtype=torch.float8_e4m3fn)
    count = pool.shape[2]
    shift = (1 << 31) // (16 * heads.dim * heads.kv)
    large = torch.empty(2, heads.kv, shift + count, 16, heads.dim, dtype=pool.dtype, device=device)
    large[:, :, shift:] = pool
    want = attention.decode_attention(q, pool, pages, *rest)
    assert attention.decode_attention(q, large, pages + shift, *rest).equal(want)


@needs_gpu
def test_decode_within_a_graph(device, dtype, heads):
    """One graph serves contexts of all lengths."""
    q, pool, pages, rows, positions, sinks, window = decode_inputs(CONTEXTS, heads, device, dtype)
    at = torch.zeros_like(positions)
    attention.decode_attention(q, pool, pages, rows, at, sinks, window)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = attention.decode_attention(q, pool, pages, rows, at, sinks, window)
    for _ in range(3):
        at.copy_(positions)
        got.fill_(float("nan"))
        graph.replay()
        want = attention.decode_attention_twin(q, pool, pages, rows, positions, sinks, window)
        close(got, want, **rerounded(dtype))
