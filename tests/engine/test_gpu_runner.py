"""The GPU runner behind the real loop: on a GPU with kernels and graphs, elsewhere with the twins alone.

On the CPU, in float32, its tokens are those of the plain runner. On a GPU they are held to the reference's
logits: each must be the likeliest, within what bfloat16 may change.
"""

from __future__ import annotations

import queue
import random
from collections import defaultdict

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton has no build for this system")

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.random_weights import write_random
from mosso.core.config import ModelConfig
from mosso.core.requests import FinishReason
from mosso.core.steps import RowWork
from mosso.engine.build import build_loop
from mosso.engine.gpu_graphs import GpuGraphs, PieceGraphs, decode
from mosso.engine.gpu_inputs import SLOTS, StepInputs, gather, layout
from mosso.engine.gpu_memory import LastingMemory
from mosso.engine.gpu_runner import GpuRunner
from mosso.engine.gpu_table import GpuTable
from mosso.engine.messages import Abort, Batch, Submit
from mosso.engine.settings import EngineSettings
from mosso.model.gpu_forward import GpuModel
from mosso.model.gpu_loading import load_gpu_weights
from mosso.model.gpu_operations import TRITON, TWINS, deterministic
from mosso.model.gpu_plan import decode_sizes, piece_sizes
from mosso.model.loading import load_weights
from mosso.model.paged import PagedKV
from mosso.model.reference import logits as reference_logits

from .conftest import Bench, Outcome

CUDA = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA device")
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float32
OPS = TRITON if CUDA else TWINS
SLACK = 0.02 if CUDA else 1e-4  # of the largest logit

CONFIG = ModelConfig(
    num_layers=4,
    num_experts=8,
    experts_per_token=4,
    hidden_size=128,
    intermediate_size=64,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=512,
    window=32,
    max_context=1024,
)
PAGE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "model"
    write_random(folder, CONFIG, device="cpu")
    return folder


@pytest.fixture(scope="module")
def gpu_weights(folder):
    with open_checkpoint(folder) as checkpoint:
        return load_gpu_weights(checkpoint, DEVICE, dtype=DTYPE)


@pytest.fixture(scope="module")
def plain_weights(folder):
    with open_checkpoint(folder) as checkpoint:
        return load_weights(checkpoint, dtype=torch.float32, experts="expanded")


class PlainBench(Bench):
    model_config = CONFIG


class GpuBench(Bench):
    model_config = CONFIG
    ops = OPS
    graphs = CUDA
    kv_dtype = DTYPE

    def make_runner(self, weights):
        c = self.config
        kv = PagedKV.allocate(CONFIG, c.full_pages + 1, c.window_pages + 1, PAGE, self.kv_dtype, DEVICE)
        for pool in kv.pools:
            pool.copy_(torch.full((1,), torch.nan))
        table = GpuTable(c.max_rows, c.max_context, PAGE, DEVICE, (c.full_pages, c.window_pages))
        model = GpuModel(weights, CONFIG, kv, table.tokens, table.pages, self.ops)
        inputs = StepInputs(c.token_budget, c.max_rows, DEVICE)
        memory = LastingMemory(DEVICE)
        graphs = self.make_graphs(model, inputs, memory, table.scratch)
        pieces = self.make_pieces(model, inputs, memory, table.scratch)
        return GpuRunner(model, table, inputs, graphs, self.constrainer, pieces)

    def make_pieces(self, model, inputs, memory, scratch):
        if not self.graphs:
            return None
        pieces = PieceGraphs.allocate(model, inputs, memory, piece_sizes(self.config.token_budget))
        pieces.reserve(scratch)
        return pieces

    def make_graphs(self, model, inputs, memory, scratch):
        if not self.graphs:
            return None
        graphs = GpuGraphs(model, inputs, scratch, memory)
        graphs.warm_up(decode_sizes(self.config.max_rows))
        graphs.capture(decode_sizes(self.config.max_rows))
        return graphs


class EagerBench(GpuBench):
    graphs = False


class PretendedGraphs(GpuGraphs):
    """Decode steps of fixed sizes with padding, as graphs are, computed anew each time."""

    def _capture(self, size, *, drawn):
        pass


class Replay:
    """A graph of a decode step up to its hidden states, on the CPU."""

    def __init__(self, graphs, result):
        self.graphs, self.result = graphs, result

    def replay(self):
        self.result.copy_(decode(self.graphs.model, self.graphs.inputs, len(self.result), drawn=False))


class PretendedPieces(PieceGraphs):
    """The same for steps with prompts; notes of each its tokens, padded, and how many decode."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.steps = []
        self.captured = []

    def forward(self, step):
        self.steps.append((len(step.rows), step.decodes))
        return super().forward(step)

    def _capture(self, size):
        self.captured.append(size)


class PaddedBench(GpuBench):
    def make_graphs(self, model, inputs, memory, scratch):
        graphs = PretendedGraphs(model, inputs, scratch, memory)
        graphs.sizes = (3, 8, 16)
        return graphs

    def make_pieces(self, model, inputs, memory, scratch):
        pieces = PretendedPieces.allocate(model, inputs, memory, (11, 30, 64))
        for tensor in (pieces.between.x, pieces.between.qkv, pieces.between.gathered):
            tensor.fill_(torch.nan)
        pieces.reserve(scratch)
        return pieces


class DeterministicBench(GpuBench):
    ops = deterministic(OPS)


class PaddedDeterministicBench(PaddedBench):
    ops = deterministic(OPS)


class Float8Bench(GpuBench):
    kv_dtype = torch.float8_e4m3fn


@pytest.fixture
def gpu(gpu_weights):
    def make(kind=GpuBench, **changes):
        return kind(gpu_weights, **({"page_size": PAGE, "full_pages": 128, "window_pages": 128} | changes))

    return make


@pytest.fixture
def plain(plain_weights):
    made = []

    def make(**changes):
        made.append(PlainBench(plain_weights, **({"page_size": PAGE} | changes)))
        return made[-1]

    yield make
    for each in made:
        each.runner.close()


def prompt(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(512) for _ in range(length)]


LENGTHS = (3, 17, 40, 90, 33)


@pytest.fixture
def requests(request_of):
    return [request_of(f"r{i}", prompt(i, n), max_tokens=36) for i, n in enumerate(LENGTHS)]


def assert_likeliest(requests, outcomes, plain_weights, slack=SLACK):
    """Each token is the reference's choice, given those before it."""
    for request in requests:
        got = outcomes[request.id]
        assert got.finish is FinishReason.LENGTH
        assert len(got.tokens) == request.sampling.max_tokens
        known = torch.tensor([*request.prompt, *got.tokens])
        want = reference_logits(plain_weights, CONFIG, known[:-1])[len(request.prompt) - 1 :]
        chosen = want.gather(1, known[len(request.prompt) :, None]).squeeze(1)
        short = (want.amax(-1) - chosen) / want.abs().amax(-1)
        assert short.max() <= slack, (request.id, short)


@pytest.mark.parametrize(
    "sizes",
    [
        {"token_budget": 512},
        {"token_budget": 16},
        {"token_budget": 64, "full_pages": 10},
        {"token_budget": 40, "max_rows": 3},
        {"token_budget": 96, "prefix_cache": False},
    ],
    ids=["batched", "chunked", "preempted", "few rows", "uncached"],
)
@pytest.mark.parametrize(
    "kind", [GpuBench, DeterministicBench, PaddedBench, PaddedDeterministicBench, *[EagerBench] * CUDA]
)
def test_greedy_tokens_are_the_references(gpu, requests, plain_weights, sizes, kind):
    engine = gpu(kind, **sizes)
    outcomes = engine.run(requests)
    assert_likeliest(requests, outcomes, plain_weights)
    assert engine.stats.kv_blocks_held == 0
    assert (engine.stats.preemptions > 0) == ("full_pages" in sizes)


def test_a_second_round_hits_the_cache_and_says_the_same(gpu, requests, plain_weights):
    engine = gpu()
    engine.run(requests)
    engine.outcomes.clear()
    assert_likeliest(requests, engine.run(requests), plain_weights)
    assert engine.stats.cached_prompt_tokens > sum(LENGTHS) // 3


def test_keys_and_values_in_eight_bits(gpu, requests, plain_weights):
    outcomes = gpu(Float8Bench, token_budget=48).run(requests)
    assert_likeliest(requests, outcomes, plain_weights, slack=0.05)


SAMPLINGS = {
    "temperature": {"temperature": 1.0},
    "top_p": {"temperature": 0.9, "top_p": 0.8},
    "top_k and min_p": {"temperature": 1.2, "top_k": 12, "min_p": 0.02},
    "greedy though truncated": {"top_p": 0.5},
    "penalties": {"presence_penalty": 0.6, "frequency_penalty": 0.4, "repetition_penalty": 1.3},
    "penalties and temperature": {"temperature": 1.0, "frequency_penalty": 1.5, "top_p": 0.9},
    "bias": {"logit_bias": ((7, 3.0), (9, -100.0), (500, 4.0)), "temperature": 0.7},
    "logprobs": {"logprobs": 3},
    "logprobs and penalties": {"logprobs": 0, "repetition_penalty": 1.5, "temperature": 0.8},
}


@pytest.fixture
def mixed_requests(request_of):
    return [
        request_of(name, prompt(i, 5 + 11 * i), seed=100 + i, **({"max_tokens": 16} | params))
        for i, (name, params) in enumerate(SAMPLINGS.items())
    ]


@pytest.mark.skipif(CUDA, reason="bfloat16 draws other tokens")
@pytest.mark.parametrize(
    ("kind", "budget", "at_once"), [(GpuBench, 24, 64), (GpuBench, 512, 2), (PaddedBench, 64, 64)]
)
def test_every_way_of_sampling_gives_the_plain_runners_tokens(
    gpu, plain, mixed_requests, monkeypatch, kind, budget, at_once
):
    monkeypatch.setattr("mosso.engine.gpu_sampler.SHAPED_ROWS", at_once)
    monkeypatch.setattr("mosso.engine.gpu_sampler.PENALIZED_ROWS", 1)
    want = plain(token_budget=512).run(mixed_requests)
    got = gpu(kind, token_budget=budget).run(mixed_requests)
    for name, outcome in want.items():
        assert got[name].tokens == outcome.tokens, name
        for mine, theirs in zip(got[name].events, outcome.events, strict=True):
            for a, b in zip(mine.logprobs, theirs.logprobs, strict=True):
                assert a.token == b.token
                assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
                assert [token for token, _ in a.top] == [token for token, _ in b.top]


def test_each_request_samples_the_same_alone_and_in_company(gpu, mixed_requests):
    together = gpu(DeterministicBench).run(mixed_requests)
    for request in mixed_requests:
        alone = gpu(DeterministicBench).run([request])
        assert alone[request.id].tokens == together[request.id].tokens, request.id


def test_stop_ids_wait_for_min_tokens(gpu, request_of):
    free = gpu().run([request_of("a", prompt(3, 20), max_tokens=8)])["a"].tokens
    stops = frozenset(free)
    outcome = gpu().run([request_of("a", prompt(3, 20), max_tokens=12, stop_ids=stops, min_tokens=5)])["a"]
    assert not stops & set(outcome.tokens[:5])
    early = gpu().run([request_of("a", prompt(3, 20), max_tokens=12, stop_ids=stops)])["a"]
    assert early.tokens == free[:1]
    assert early.finish is FinishReason.STOP


def test_arrivals_aborts_and_few_pages(gpu, request_of, plain_weights):
    """Requests come at random while others run, some leave early, pages run out; the scheduler checks
    itself after every turn."""
    rng = random.Random(5)
    engine = gpu(full_pages=12, max_rows=16, token_budget=64, max_context=160)
    count = 64 if CUDA else 20
    requests = [
        request_of(f"q{i}", prompt(i, rng.randrange(1, 50)), max_tokens=rng.randrange(1, 64))
        for i in range(count)
    ]
    waiting = list(requests)
    while waiting or not (engine.loop.idle and engine.inbox.empty()):
        for _ in range(min(len(waiting), rng.randrange(3))):
            engine.inbox.put(Submit(waiting.pop(0)))
        if rng.random() < 0.1 and len(waiting) < count:
            victim = requests[rng.randrange(count - len(waiting))].id
            engine.inbox.put(Abort(victim))
        if not engine.inbox.empty() or not engine.loop.idle:
            engine.loop.turn()
    assert engine.stats.kv_blocks_held == 0
    assert engine.stats.preemptions > 0
    aborted = {name for name, got in engine.outcomes.items() if got.finish is FinishReason.ABORT}
    assert aborted
    assert len(engine.outcomes) == count
    assert_likeliest([r for r in requests if r.id not in aborted], engine.outcomes, plain_weights)


def test_a_failed_step_hurts_only_what_ran(gpu, requests, plain_weights, monkeypatch, capsys):
    engine = gpu(max_rows=4)
    run, calls = GpuRunner._run, []

    def fail_once(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) == 6:
            raise RuntimeError("the device hiccuped")
        return run(self, *arguments, **options)

    monkeypatch.setattr(GpuRunner, "_run", fail_once)
    outcomes = engine.run(requests)
    failed = [name for name, got in outcomes.items() if got.finish is FinishReason.ERROR]
    assert 1 <= len(failed) <= 4
    assert "hiccuped" in outcomes[failed[0]].events[-1].error
    assert_likeliest([r for r in requests if r.id not in failed], outcomes, plain_weights)


@needs_cuda
def test_graphs_give_the_eager_tokens(gpu, request_of):
    """Four rows, a size that has a graph, and four prompts of a size that has: both ways launch the same
    kernels."""
    few = [request_of(f"g{i}", prompt(i, 16), max_tokens=40, temperature=1.0, seed=i) for i in range(4)]
    with_graphs, eager = gpu(max_rows=4).run(few), gpu(EagerBench, max_rows=4).run(few)
    for name, outcome in eager.items():
        assert with_graphs[name].tokens == outcome.tokens


@needs_cuda
@pytest.mark.parametrize("kind", [GpuBench, DeterministicBench])
def test_captured_pieces_give_what_they_gave_before(gpu, request_of, kind):
    """The first round captures pieces behind its steps, the second replays them."""
    engine = gpu(kind, prefix_cache=False, token_budget=96)
    rounds = []
    for _ in range(2):
        some = [
            request_of(f"r{i}", prompt(i, 40 + 31 * i), max_tokens=20, temperature=1.0, seed=i)
            for i in range(6)
        ]
        engine.outcomes.clear()
        rounds.append({name: outcome.tokens for name, outcome in engine.run(some).items()})
    assert rounds[0] == rounds[1]


def test_a_step_with_prompts_is_padded_to_the_next_size(gpu, request_of):
    engine = gpu(PaddedBench, token_budget=96)
    engine.run([request_of("a", prompt(2, 90), max_tokens=2)])
    engine.run([request_of("b", prompt(1, 20), max_tokens=3)])
    engine.run([request_of("c", prompt(3, 30), max_tokens=4), request_of("d", prompt(4, 33), max_tokens=4)])
    pieces = engine.runner._pieces
    assert pieces.steps == [(64, 0), (30, 0), (64, 0)], "the first reserves memory; 90 are too many"
    assert pieces.captured == [64, 30, 64], "each once it has run"
    assert pieces.size_for(64) == 64
    assert pieces.size_for(65) is None


NO_MEMORY = [torch.OutOfMemoryError("torch has none"), RuntimeError("CUDA error: out of memory\nmore of it")]


@pytest.mark.skipif(CUDA, reason="bfloat16 draws other tokens")
@pytest.mark.parametrize("error", [None, *NO_MEMORY])
def test_a_step_with_shaped_logits_is_captured_behind_the_first_of_its_size(
    gpu, plain, mixed_requests, caplog, error
):
    want = plain(token_budget=512).run(mixed_requests)
    engine = gpu(PaddedBench)
    graphs, captured = engine.runner._graphs, []

    def capture(size, *, drawn):
        assert not drawn
        captured.append(size)
        if error is not None:
            raise error
        result = torch.empty(size, CONFIG.hidden_size)
        graphs._graphs[size, drawn] = Replay(graphs, result), result

    graphs._capture = capture
    got = engine.run(mixed_requests)
    assert {name: outcome.tokens for name, outcome in got.items()} == {n: o.tokens for n, o in want.items()}
    assert captured
    assert len(set(captured)) == len(captured), "none is tried twice"
    said = [message for message in caplog.messages if message.startswith("no graph of ")]
    assert len(said) == (0 if error is None else len(captured))


@pytest.mark.parametrize("error", NO_MEMORY)
def test_a_size_without_memory_is_left_out(gpu, requests, plain_weights, caplog, error):
    engine = gpu(PaddedBench, token_budget=64)
    pieces, captured = engine.runner._pieces, []

    def capture(size):
        captured.append(size)
        raise error

    pieces._capture = capture
    outcomes = engine.run(requests)
    assert_likeliest(requests, outcomes, plain_weights)
    assert sorted(captured) == sorted(set(captured)), "none is tried twice"
    assert set(captured) | set(pieces.sizes) == {11, 30, 64}
    assert not set(captured) & set(pieces.sizes)
    said = f"no graphs of steps of {captured[0]} tokens, they are padded further: {error}".partition("\n")[0]
    assert caplog.messages.count(said) == 1


@needs_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_launch_waits_for_nothing(gpu, requests):
    """No synchronising call is made by `launch`, whatever the step is."""
    engine = gpu()
    launch = engine.runner.launch

    def strict(plan):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    engine.runner.launch = strict
    assert all(outcome.finish is FinishReason.LENGTH for outcome in engine.run(requests).values())


@needs_cuda
@pytest.mark.parametrize("kv_dtype", ["bfloat16", "float8"])
def test_the_engine_from_settings_to_tokens(folder, requests, plain_weights, kv_dtype):
    """As a server would build it: measured, bounded, with graphs."""
    inbox, sent = queue.SimpleQueue(), []
    bound = torch.cuda.memory_reserved() + (3 << 30)
    settings = EngineSettings(
        folder, device="cuda", kv_dtype=kv_dtype, gpu_memory=float(bound), max_rows=16, token_budget=512,
        check=True,
    )  # fmt: skip
    loop, ready = build_loop(settings, inbox, sent.append)
    try:
        assert ready.limits.kv_tokens > 10_000
        assert ready.settings.prefill_budget == 512
        assert any("GPU memory" in note for note in ready.notes)
        for request in requests:
            inbox.put(Submit(request))
        while not (loop.idle and inbox.empty()):
            loop.turn()
        outcomes = defaultdict(Outcome)
        for event in [event for batch in sent if isinstance(batch, Batch) for event in batch.events]:
            outcomes[event.request_id].events.append(event)
            outcomes[event.request_id].tokens.extend(event.tokens)
        assert_likeliest(requests, outcomes, plain_weights, slack=SLACK if kv_dtype == "bfloat16" else 0.05)
        assert torch.cuda.memory_reserved() <= bound
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_tokens_are_gathered_with_the_single_ones_first():
    work = [RowWork(4, 9, 1, True), RowWork(2, 3, 5, True), RowWork(7, 0, 1, False), RowWork(1, 2, 3, True)]
    batch = gather(work)
    assert batch.rows.tolist() == [4, 7, *[2] * 5, *[1] * 3]
    assert batch.positions.tolist() == [9, 0, 3, 4, 5, 6, 7, 2, 3, 4]
    assert batch.decodes == 2
    assert batch.span_rows.tolist() == [2, 1]
    assert batch.query_starts.tolist() == [0, 5, 8]
    assert batch.context_lens.tolist() == [8, 5]
    assert batch.sample_at.tolist() == [0, 6, 9]
    assert batch.sample_rows.tolist() == [4, 2, 1]
    assert batch.sample_positions.tolist() == [9, 7, 4]
    assert not batch.is_decode
    assert gather(work[:1]).is_decode
    assert not gather(work[2:3]).is_decode


def test_the_parts_of_a_step_do_not_overlap():
    place = layout(10, 3, 2)
    sizes = [10, 10, 2 * 3, *[3] * 8, 2, 3, 2]
    starts = [getattr(place, name) for name in place.__slots__[3:]]
    assert all(start % 4 == 0 for start in starts)
    assert all(start + size <= after for start, size, after in zip(starts, sizes, starts[1:], strict=False))
    assert starts[0] >= 1


def test_a_slot_comes_back_after_the_others():
    inputs = StepInputs(16, 4, torch.device("cpu"))
    slots = [inputs.acquire() for _ in range(SLOTS)]
    assert len(set(map(id, slots))) == SLOTS
    assert inputs.acquire() is slots[0]
    slots[0].ints[:3] = np.array([1, 2, 3])
    inputs.send(slots[0], 3)
    assert inputs.ints[:3].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("rows", "last"), [(1, (1,)), (5, (4, 5)), (64, (48, 64)), (4096, (960, 1024))])
def test_graph_sizes_end_with_the_most_rows(rows, last):
    sizes = decode_sizes(rows)
    assert sizes[-len(last) :] == last
    assert list(sizes) == sorted(set(sizes))
