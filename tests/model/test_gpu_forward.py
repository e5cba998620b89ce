"""The GPU forward pass against the reference, made of the twins; and of the kernels, in their interpreter."""

from __future__ import annotations

import inspect
import weakref
from dataclasses import fields, replace
from itertools import accumulate

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no build for this system")

from mosso.core.config import ModelConfig
from mosso.kernels.gpu.moe import pack_experts
from mosso.model.gpu_forward import GpuModel, GpuSpans, GpuStep, all_spans, attention, forward, queries
from mosso.model.gpu_operations import TRITON, TWINS, GpuOperations, deterministic
from mosso.model.gpu_pieces import Between, run_piece
from mosso.model.gpu_weights import GpuLayer, GpuWeights
from mosso.model.loading import load_weights
from mosso.model.paged import PagedKV
from mosso.model.reference import logits

CONFIG = ModelConfig(
    num_layers=4,
    num_experts=16,
    experts_per_token=4,
    hidden_size=64,
    intermediate_size=32,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=96,
    window=24,
    max_context=512,
)
LENGTHS = (37, 5, 20, 90)
PAGE = 16


def pack(
    source, dtype: torch.dtype, layers: int | None = None, device: str | torch.device = "cpu"
) -> GpuWeights:
    """The checkpoint's tensors in the GPU's layout; the first `layers` of them."""
    plain = load_weights(source, dtype=dtype, experts="packed", device=device)

    def layer(index, found):
        stem = f"model.layers.{index}.mlp.experts."
        kinds = ("blocks", "scales", "bias")
        names = [f"{stem}{part}_proj_{kind}" for part in ("gate_up", "down") for kind in kinds]
        tensors = [source.read(name).to(device) for name in names]
        tensors = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        fields = {name: getattr(found, name) for name in GpuLayer.__slots__ if name != "experts"}
        return GpuLayer(**fields, experts=pack_experts(*tensors))

    chosen = plain.layers[:layers]
    packed = tuple(layer(index, found) for index, found in enumerate(chosen))
    return GpuWeights(plain.embedding, packed, plain.norm, plain.head)


class Rows:
    """Sequences over one model, stepped by hand. Fresh memory is NaN, and so are the pages behind the window;
    their table entries name a page that nobody has written."""

    def __init__(self, weights: GpuWeights, tokens: list[torch.Tensor], ops: GpuOperations, run=forward):
        logical = -(-max(map(len, tokens)) // PAGE)
        total = logical * len(tokens)
        device = weights.device
        kv = PagedKV.allocate(CONFIG, total + 2, total + 2, PAGE, weights.dtype, device)
        for pool in kv.pools:
            pool.fill_(torch.nan)
        table = torch.zeros(len(tokens) + 1, 128, dtype=torch.int32)
        for row, known in enumerate(tokens):
            table[row, : len(known)] = known
        pages = torch.full((2, len(tokens) + 1, logical), total + 1, dtype=torch.int32)  # the last: scratch
        ids = torch.stack([torch.randperm(total).view(len(tokens), logical) for _ in range(2)])
        pages[:, :-1] = ids.int()
        self.unwritten = total
        self.model = GpuModel(weights, CONFIG, kv, table.to(device), pages.to(device), ops)
        self.done = [0] * len(tokens)
        self.run = run

    def step(self, work: dict[int, int], padding: int = 0) -> dict[int, torch.Tensor]:
        """Row → how many more positions; returns row → logits of its last one."""
        decodes = [row for row, count in work.items() if count == 1]
        stretches = [row for row, count in work.items() if count > 1]
        order = decodes + stretches
        counts = [work[row] for row in order]
        rows = [row for row, count in zip(order, counts, strict=True) for _ in range(count)]
        positions = [at for row in order for at in range(self.done[row], self.done[row] + work[row])]
        for row in order:
            self.drop_stale(row)
            self.done[row] += work[row]
        scratch = self.model.tokens.shape[0] - 1
        spans = None
        if stretches:
            lengths = [work[row] for row in stretches]
            starts = [0, *accumulate(lengths)]
            contexts = [self.done[row] for row in stretches]
            spans = GpuSpans(self.ints(stretches), self.ints(starts), self.ints(contexts), max(lengths))
        step = GpuStep(
            rows=self.ints(rows + [scratch] * padding),
            positions=self.ints(positions + [0] * padding),
            active=self.ints([len(rows)]),
            decodes=len(decodes) + (0 if stretches else padding),
            spans=spans,
            sample_at=self.ints([end - 1 for end in accumulate(counts)]),
        )
        h = self.run(self.model, step)
        ops, weights = self.model.ops, self.model.weights
        return dict(zip(order, ops.head(h, weights.head, norm=self.model.head_norm), strict=True))

    def drop_stale(self, row: int) -> None:
        oldest = max(0, self.done[row] - CONFIG.window + 1)
        for logical in range(oldest // PAGE):
            page = int(self.model.pages[1, row, logical])
            if page != self.unwritten:
                for pool, sliding in zip(self.model.kv.pools, CONFIG.sliding, strict=True):
                    if sliding:
                        pool[:, :, page] = torch.nan
                self.model.pages[1, row, logical] = self.unwritten

    def ints(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.model.tokens.device)


def in_pieces(model: GpuModel, step: GpuStep) -> torch.Tensor:
    """As engine.gpu_graphs runs them, with room for more tokens than there are."""
    between = Between.allocate(model, len(step.rows) + 5).part(len(step.rows))
    for tensor in (between.x, between.qkv, between.gathered):
        tensor.fill_(torch.nan)
    step = all_spans(step) if model.ops.uniform else step
    for index in range(len(model.weights.layers)):
        run_piece(model, step, index, between)
        attention(model, step, index, queries(model, between.qkv), out=between.gathered)
    run_piece(model, step, index + 1, between)
    return between.x.index_select(0, step.sample_at)


@pytest.fixture(scope="module")
def source(random_source):
    return random_source(CONFIG, seed=3)


@pytest.fixture(scope="module")
def packed(source):
    return pack(source, torch.float32)


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(8)
    return [torch.randint(0, 96, (length,), generator=generator) for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(source, tokens):
    plain = load_weights(source, dtype=torch.float32, experts="expanded")
    return [logits(plain, CONFIG, row) for row in tokens]


def test_a_twin_is_called_as_its_kernel_is():
    kernels = [field.name for field in fields(GpuOperations) if callable(getattr(TRITON, field.name))]
    kernels.remove("linear")  # the library's in both
    for name in kernels:
        kernel, twin = getattr(TRITON, name), getattr(TWINS, name)
        assert kernel is not twin, name
        assert inspect.signature(kernel) == inspect.signature(twin), name


SCHEDULES = {
    "one by one": [({0: 1}, 0)] * 37,
    "at once": [({3: 90}, 0)],
    "at once, few": [({1: 5}, 0)],
    "at once, some": [({0: 37}, 0)],
    "chunked": [({3: chunk}, 0) for chunk in (16, 3, 40, 31)],
    "decode": [({0: 10, 1: 2, 2: 2, 3: 70}, 0), *[({0: 1, 1: 1, 2: 1, 3: 1}, 0)] * 3],
    "padded decode": [({0: 10, 1: 2, 2: 2, 3: 70}, 0), *[({0: 1, 1: 1, 2: 1, 3: 1}, 4)] * 3],
    "much padding": [({0: 10, 1: 2}, 0), ({0: 1, 1: 1}, 30), ({0: 1, 1: 1}, 70)],
    "mixed": [({3: 30}, 0), ({3: 1, 0: 11}, 0), ({0: 9, 3: 1, 2: 20}, 0), ({1: 5, 3: 1, 0: 1}, 0)],
    "mixed, many": [({1: 3, 0: 30}, 0), ({0: 1, 1: 1, 3: 80, 2: 10}, 0), ({2: 9, 0: 1, 3: 1}, 0)],
    "mixed, padded": [({1: 3, 0: 30}, 5), ({0: 1, 1: 1, 3: 80, 2: 10}, 40), ({2: 9, 0: 1, 3: 1}, 1)],
}


@pytest.mark.parametrize(
    "ops",
    [TWINS, replace(TWINS, few_tokens=16, some_tokens=64), deterministic(TWINS)],
    ids=["batched", "wide", "deterministic"],
)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_equals_the_reference(packed, tokens, expected, schedule, ops):
    rows = Rows(packed, tokens, ops)
    for work, padding in schedule:
        for row, got in rows.step(work, padding).items():
            want = expected[row][rows.done[row] - 1]
            assert (got - want).abs().max() < 1e-4 * want.abs().max(), (work, row)


@pytest.mark.parametrize("ops", [TWINS, deterministic(TWINS)], ids=["batched", "deterministic"])
@pytest.mark.parametrize("schedule", ["chunked", "mixed", "mixed, padded"])
def test_pieces_equal_the_reference(packed, tokens, expected, schedule, ops):
    rows = Rows(packed, tokens, ops, in_pieces)
    for work, padding in SCHEDULES[schedule]:
        for row, got in rows.step(work, padding).items():
            want = expected[row][rows.done[row] - 1]
            assert (got - want).abs().max() < 1e-4 * want.abs().max(), (work, row)


def test_what_attention_gave_is_gone_when_experts_compute(packed, tokens):
    """Both are the largest that a long step holds."""
    products = []

    def linear(*arguments, **options):
        result = TWINS.linear(*arguments, **options)
        products.append(weakref.ref(result))
        return result

    def gate_up(*arguments):
        assert len(products) >= 2
        assert [product() for product in products] == [None] * len(products)
        return TWINS.gate_up(*arguments)

    Rows(packed, tokens, replace(TWINS, linear=linear, gate_up=gate_up)).step({3: 90})
    assert len(products) == 2 * CONFIG.num_layers


@pytest.mark.parametrize("count", [2, 7, 65], ids=["few", "some", "many"])
def test_a_sampled_token_is_read_from_the_table(packed, tokens, expected, count):
    """Nothing but the table says what the tokens are."""
    rows = Rows(packed, tokens, TWINS)
    rows.model.tokens[3, count - 1] += 1
    (got,) = rows.step({3: count}).values()
    want = expected[3][count - 1]
    assert (got - want).abs().max() > 1e-2 * want.abs().max()


WIDE = replace(TRITON, few_tokens=16, some_tokens=64)  # in the interpreter two tokens are slower than six
KERNELS = {
    "few": (WIDE, [({0: 5, 1: 1}, 0), ({0: 1, 1: 1}, 2)]),
    "some": (TRITON, [({0: 9, 1: 2}, 0), ({0: 2, 1: 1, 2: 5}, 0)]),
    "many": (TRITON, [({0: 30, 1: 1}, 3), ({0: 1}, 16)]),
    "deterministic": (deterministic(TRITON), [({0: 30, 1: 1}, 3), ({1: 1, 2: 5}, 0), ({0: 1}, 2)]),
}


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # padding computes with what lies there
@pytest.mark.parametrize(("ops", "schedule"), KERNELS.values(), ids=list(KERNELS))
def test_the_kernels_give_what_the_twins_give(source, ops, schedule):
    """On a GPU in bfloat16, elsewhere in Triton's interpreter in float16: small, since that is slow."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16
    weights = pack(source, dtype, layers=2, device=device)
    generator = torch.Generator().manual_seed(2)
    tokens = [torch.randint(0, 96, (length,), generator=generator) for length in (70, 12, 40)]
    twins, kernels = Rows(weights, tokens, TWINS), Rows(weights, tokens, ops)
    for work, padding in schedule:
        want, got = twins.step(work, padding), kernels.step(work, padding)
        for row, logits_of_row in want.items():
            error = (got[row] - logits_of_row).norm() / logits_of_row.norm()
            assert error < 0.03, (work, row)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("ops", [TRITON, deterministic(TRITON)], ids=["many", "deterministic"])
def test_the_kernels_give_the_same_in_pieces(source, ops):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = pack(
        source, torch.bfloat16 if device.type == "cuda" else torch.float16, layers=2, device=device
    )
    generator = torch.Generator().manual_seed(2)
    tokens = [torch.randint(0, 96, (length,), generator=generator) for length in (70, 12)]
    whole, pieces = Rows(weights, tokens, ops), Rows(weights, tokens, ops, in_pieces)
    for work, padding in [({0: 30, 1: 1}, 3), ({1: 1, 0: 20}, 2)]:
        want, got = whole.step(work, padding), pieces.step(work, padding)
        for row, logits_of_row in want.items():
            assert torch.equal(got[row], logits_of_row), (work, row)
