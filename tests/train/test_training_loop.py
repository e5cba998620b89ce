"""The feed is ordered by the seed alone; the loop learns, decays, evaluates and logs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch

from mosso.core.config import ModelConfig
from mosso.core.errors import MossoError
from mosso.train.documents import ExampleSource
from mosso.train.feed import Batch, Feed, to_device
from mosso.train.loop import HeldOut, Log, LoopSettings, Trainer
from mosso.train.network import Network
from mosso.train.objective import Losses, exact_matches
from mosso.train.optimizer import Muon, make_optimizers, orthogonalize, rate_at
from mosso.train.packing import Document, to_arrays
from mosso.train.production import FeedSettings, Source, make_rows
from mosso.train.vocabulary import byte_tokenizer

CPU = torch.device("cpu")
SMALL = ModelConfig(
    num_layers=2, num_experts=4, experts_per_token=2, hidden_size=32, intermediate_size=32, num_heads=2,
    num_kv_heads=1, head_dim=16, vocab_size=16, window=8, max_context=4096,
)  # fmt: skip


@dataclass(frozen=True)
class Reversals:
    """a b c | c b a: needs attention, learnt in seconds."""

    def __call__(self, seed: int) -> Iterator[Document]:
        draw = random.Random(seed)
        while True:
            word = [draw.randrange(10) for _ in range(draw.randrange(2, 5))]
            yield Document([10, *word, 11, *reversed(word), 12], len(word) + 2, len(word) + 2, 0)


def tokens_of(source: Source, settings: FeedSettings, count: int) -> list[list[list[int]]]:
    feed = Feed(source, settings, CPU)
    try:
        return [batch.tokens.tolist() for batch in islice(feed, count)]
    finally:
        feed.close()


def test_batches_depend_on_the_seed_alone_whichever_worker_is_fast() -> None:
    source = ExampleSource(byte_tokenizer().to_str())
    settings = FeedSettings(seed=3, rows=2, length=2048, workers=2)
    apart = [make_rows(source, settings, worker) for worker in (0, 1)]
    expected = [next(apart[i % 2]).tokens.tolist() for i in range(4)]
    assert tokens_of(source, settings, 4) == expected
    assert tokens_of(source, FeedSettings(seed=4, rows=2, length=2048, workers=0), 1) != expected[:1]


def test_a_dead_worker_ends_the_run_with_a_word() -> None:
    feed = Feed(ExampleSource("no vocabulary"), FeedSettings(seed=0, rows=2, length=32, workers=1), CPU)
    try:
        with pytest.raises(MossoError, match="data worker 0"):
            next(feed)
    finally:
        feed.close()


def held_out() -> HeldOut:
    rows = next(make_rows(Reversals(), FeedSettings(99, 4, 32, 0), 0))
    return HeldOut([to_device(rows, CPU)], ["reverse"])


def test_a_short_run_learns_its_task_and_logs_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(SMALL, length=32, dtype=torch.float32)
    log = Log(tmp_path / "log.jsonl")
    feed = Feed(Reversals(), FeedSettings(seed=0, rows=16, length=32, workers=0), CPU)
    settings = LoopSettings(steps=120, log_every=20, evaluate_every=60, compile=False, adam_lr=0.01)
    try:
        Trainer(network, ["reverse"], held_out(), settings, log).run(feed)
    finally:
        feed.close()
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["by_skill"]["reverse"] for line in lines if line["kind"] == "train"]
    assert losses[0] > 2.5
    assert losses[-1] < 0.5
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [60, 120]


def test_a_run_out_of_minutes_still_ends(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(SMALL, length=32, dtype=torch.float32)
    log = Log(tmp_path / "log.jsonl")
    feed = Feed(Reversals(), FeedSettings(seed=0, rows=2, length=32, workers=0), CPU)
    settings = LoopSettings(steps=10**9, minutes=1e-6, compile=False)
    try:
        Trainer(network, ["reverse"], held_out(), settings, log).run(feed)
    finally:
        feed.close()
        log.close()
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["kind"] == "evaluation"


def test_an_example_counts_only_if_every_target_token_is_right() -> None:
    rows = [[Document([1, 2, 3], 1, 1, 0), Document([4, 5, 6], 1, 1, 1), Document([7, 8, 9], 1, 1, 2)]]
    batch = _batch(rows)
    right = torch.ones_like(batch.tokens, dtype=torch.bool)
    right[0, 5] = False  # the last target of document 1
    right[0, 0] = right[0, 6] = False  # prompts do not count
    found = Losses(torch.tensor(0.0), torch.zeros(1, 32), right, torch.tensor(1.0))
    exact, missed = exact_matches(lambda _: found, [batch], ["a", "a", "b"])
    assert exact == {"a": 0.5, "b": 1.0}
    assert missed == [1]


def _batch(rows: list[list[Document]]) -> Batch:
    return to_device(to_arrays(rows, 32), CPU)


@pytest.mark.parametrize("shape", [(3, 16, 48), (3, 48, 16)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape) * 5).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_follows_the_gradient_whatever_its_size() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 8, 8))
    muon = Muon([weight], lr=0.1)
    weight.grad = torch.eye(8).expand(2, 8, 8) * 1e-3
    muon.step()
    moved = weight.detach()[0]
    assert float(moved.diagonal().mean()) == pytest.approx(-0.1, rel=0.3)
    assert float((moved - torch.diag(moved.diagonal())).abs().max()) < 0.01


def test_each_parameter_has_one_optimizer_and_tables_never_muon() -> None:
    network = Network(SMALL, length=32)
    muon, adam = make_optimizers(network, muon_lr=0.02, adam_lr=0.004)
    owned = [p for o in (muon, adam) for group in o.param_groups for p in group["params"]]
    assert {id(p) for p in owned} == {id(p) for p in network.parameters()}
    assert len(owned) == len(list(network.parameters()))
    orthogonalized = {id(p) for group in muon.param_groups for p in group["params"]}
    assert not orthogonalized & {
        id(network.embedding),
        id(network.head),
        id(network.blocks[0].experts.router_weight),
    }


def test_the_schedule_rises_holds_and_falls_to_zero() -> None:
    rates = [rate_at(i / 1000) for i in range(1001)]
    assert rates[0] == 0
    assert rates[-1] == 0
    assert max(rates) == 1
    peak = rates.index(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
