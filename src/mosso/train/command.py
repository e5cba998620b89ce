"""`python -m mosso.train --out DIR`: learn the vocabulary, train, evaluate, export. One command, one seed."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import click
import torch

from mosso.harmony.renderer import Renderer
from mosso.harmony.tokenizer import Tokenizer
from mosso.train.architecture import DEMO
from mosso.train.attention import DENSE, FLEX
from mosso.train.documents import ExampleSource, held_out, learn_tokenizer, to_document
from mosso.train.examples import SKILLS
from mosso.train.export import expert_matrices, export, load
from mosso.train.feed import Feed, to_device
from mosso.train.history import SHARE
from mosso.train.loop import HeldOut, Log, LoopSettings, Trainer
from mosso.train.network import Network
from mosso.train.packing import pack, to_arrays
from mosso.train.production import FeedSettings

VOCABULARY_EXAMPLES = 20_000


@click.command(context_settings={"show_default": True})
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the result."
)
@click.option("--seed", default=0, help="Fixes data, initial weights and the order of batches.")
@click.option("--steps", default=4_900, help="Updates; the learning-rate schedule spans them.")
@click.option(
    "--minutes", default=60.0, help="End after this long, compilation included, if steps would take longer."
)
@click.option("--rows", default=32, help="Rows of a batch.")
@click.option("--length", default=4096, help="Tokens of a row.")
@click.option("--workers", default=12, help="Processes that make data.")
@click.option("--muon-lr", default=0.02)
@click.option("--adam-lr", default=0.004)
@click.option("--log-every", default=50)
@click.option("--evaluate-every", default=800)
@click.option("--held-out", "held_out_count", default=3000, help="Examples of each evaluation.")
@click.option("--attention", type=click.Choice(["flex", "dense"]), default="flex")
@click.option("--compile/--no-compile", "compiled", default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--precision", type=click.Choice(["bfloat16", "float32"]), default="bfloat16")
@click.option(
    "--tokenizer", type=click.Path(path_type=Path, exists=True), help="Use this tokenizer.json; learn none."
)
@click.option(
    "--resume", type=click.Path(path_type=Path, exists=True), help="Start from this checkpoint folder."
)
@click.option("--freeze-experts", is_flag=True, help="Leave the experts' matrices as they are.")
@click.option("--histories", default=SHARE, help="Share of the examples that come after unrelated turns.")
def main(
    out: Path, seed: int, steps: int, minutes: float, rows: int, length: int, workers: int,
    muon_lr: float, adam_lr: float, log_every: int, evaluate_every: int, held_out_count: int, attention: str,
    compiled: bool, device: str, precision: str, tokenizer: Path | None, resume: Path | None,
    freeze_experts: bool, histories: float,
) -> None:  # fmt: skip
    """Train the demo model: OUT/checkpoint is the result, OUT/log.jsonl tells how it came about."""
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / "log.jsonl")
    log.write("start", **_surroundings(device), **click.get_current_context().params)
    vocabulary = tokenizer.read_text("utf-8") if tokenizer else _learn(seed, log)
    place = torch.device(device)
    feed = Feed(ExampleSource(vocabulary, histories), FeedSettings(seed, rows, length, workers), place)
    try:
        torch.manual_seed(seed)
        dtype = torch.float32 if precision == "float32" else torch.bfloat16
        network = Network(DEMO, length=length, dtype=dtype, form=FLEX if attention == "flex" else DENSE).to(
            place
        )
        if resume:
            load(network, resume)
        if freeze_experts:
            for matrix in expert_matrices(network).values():
                matrix.requires_grad_(False)
        settings = LoopSettings(
            steps,
            minutes,
            muon_lr,
            adam_lr,
            log_every=log_every,
            evaluate_every=evaluate_every,
            compile=compiled,
        )
        examples = _held_out(vocabulary, seed, held_out_count, rows, length, place)
        log.write(
            "ready", held_out=len(examples.skills), parameters=sum(p.numel() for p in network.parameters())
        )
        Trainer(network, SKILLS, examples, settings, log).run(feed)
    finally:
        feed.close()
    export(network, vocabulary, out / "checkpoint")
    log.write("end")
    log.close()


def _surroundings(device: str) -> dict[str, str]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    return {"torch": torch.__version__, "python": platform.python_version(), "machine": name}


def _learn(seed: int, log: Log) -> str:
    vocabulary = learn_tokenizer(seed, examples_seen=VOCABULARY_EXAMPLES, size=DEMO.vocab_size)
    log.write("vocabulary", size=DEMO.vocab_size)
    return vocabulary


def _held_out(
    vocabulary: str, seed: int, count: int, rows: int, length: int, device: torch.device
) -> HeldOut:
    """Held-out examples in batches of the training shape, so that nothing is compiled for them alone."""
    renderer = Renderer(Tokenizer(json.loads(vocabulary)))
    examples = held_out(seed, count)
    packed = list(pack((to_document(renderer, e, n) for n, e in enumerate(examples)), length))
    packed += [[] for _ in range(-len(packed) % rows)]
    arrays = [to_arrays(packed[i : i + rows], length) for i in range(0, len(packed), rows)]
    return HeldOut([to_device(a, device) for a in arrays], [e.skill for e in examples])
