"""One training run: batches in, a trained network out, and a log in JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from mosso.train.feed import Batch, Feed
from mosso.train.network import Network
from mosso.train.objective import Losses, exact_matches, loss_by_skill, losses
from mosso.train.optimizer import make_optimizers, rate_at


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """`steps` spans the schedule; `minutes`, compilation included, ends it earlier on a slow machine."""

    steps: int
    minutes: float = float("inf")
    muon_lr: float = 0.02
    adam_lr: float = 0.004
    warmup: float = 0.01
    log_every: int = 50
    evaluate_every: int = 800
    compile: bool = True


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Examples that training never sees, on the device; `skills[n]` is the skill of document number n."""

    batches: Sequence[Batch]
    skills: Sequence[str]


class Log:
    """JSON lines to a file and, shortened, to the terminal."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._start = time.monotonic()

    def write(self, kind: str, **values: Any) -> None:
        line = {"kind": kind, "seconds": round(time.monotonic() - self._start, 1), **values}
        text = json.dumps(line, default=str)
        self._file.write(text + "\n")
        self._file.flush()
        print(text, flush=True)

    def close(self) -> None:
        self._file.close()


class _Clock:
    """How much of the schedule is behind us. The first step compiles: its time is no part of the schedule."""

    def __init__(self, settings: LoopSettings) -> None:
        self._steps = settings.steps
        self._end = time.monotonic() + 60 * settings.minutes
        self._start = 0.0

    def progress(self, step: int) -> float:
        """0 at the start, 1 or more at the end, by steps or by time, whichever is further."""
        now = time.monotonic()
        if step <= 1:
            self._start = now
        if step == 0:
            return 0.0
        by_time = 1.0 if now >= self._end else (now - self._start) / (self._end - self._start)
        return max(step / self._steps, by_time)


class Trainer:
    """Owns the optimizers and the schedule; the network and the feed are the caller's."""

    def __init__(
        self, network: Network, skills: Sequence[str], held_out: HeldOut, settings: LoopSettings, log: Log
    ) -> None:
        self.network, self.skills, self.held_out, self.settings, self.log = (
            network,
            skills,
            held_out,
            settings,
            log,
        )
        self._optimizers = make_optimizers(network, muon_lr=settings.muon_lr, adam_lr=settings.adam_lr)
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers]
        self._losses: Callable[[Network, Batch], Losses] = losses
        if settings.compile:
            self._losses = torch.compile(losses, dynamic=False)

    def run(self, feed: Feed) -> None:
        """Train until the schedule's end: the last step, or the last minute if that comes first."""
        clock = _Clock(self.settings)
        step, tokens = 0, 0
        while (progress := clock.progress(step)) < 1.0:
            batch = next(feed)
            found = self.step(batch, rate_at(progress, warmup=self.settings.warmup))
            tokens += batch.tokens.numel()
            if step % self.settings.log_every == 0:
                self._log_step(step, progress, tokens, batch, found)
            step += 1
            if step % self.settings.evaluate_every == 0:
                self.evaluate(step)
        if step % self.settings.evaluate_every:
            self.evaluate(step)

    def _log_step(self, step: int, progress: float, tokens: int, batch: Batch, found: Losses) -> None:
        by_skill = loss_by_skill(batch, found.tokens, self.skills)  # waits for the device
        self.log.write(
            "train",
            step=step,
            progress=round(progress, 4),
            loss=round(float(found.total.detach()), 4),
            balance=round(float(found.balance), 3),
            tokens=tokens,
            by_skill={skill: round(loss, 4) for skill, loss in by_skill.items()},
        )

    def step(self, batch: Batch, rate: float) -> Losses:
        """One update at `rate` times the peak learning rates."""
        found = self._losses(self.network, batch)
        found.total.backward()
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return found

    def evaluate(self, step: int) -> dict[str, float]:
        """Exact match by skill on held-out examples, logged; the first few misses are named."""
        # Training's compiled function serves, its graph unused: nothing is compiled for evaluation alone.
        exact, missed = exact_matches(
            lambda batch: self._losses(self.network, batch), self.held_out.batches, self.held_out.skills
        )
        rounded = {skill: round(share, 4) for skill, share in exact.items()}
        self.log.write("evaluation", step=step, exact=rounded, missed=missed[:400])
        return exact
