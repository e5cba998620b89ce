"""Draws the next token of each sampling row, with the parameters its request came with.

Parameters live on the device by row and are gathered by row index, as the tokens are. Beside them the host
keeps the requests, to skip what no row of the batch needs. Nothing here counts tokens: penalties are taken
from the row's own tokens in the table, so they outlive a preemption by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mosso.core.constraints import Constrainer
from mosso.core.requests import Request, SamplingParams, TokenLogprob
from mosso.core.steps import RowWork, StepPlan
from mosso.engine.constrained import Allowed, ConstrainedRows, words
from mosso.engine.table import RowTable
from mosso.kernels import sampling as kernels
from mosso.kernels.operations import TWINS, Operations

_FLOATS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
_INTS = ("seed", "top_k")


@dataclass(frozen=True, slots=True)
class _Batch:
    """The S sampling rows of one step: on the host and, parallel, on the device."""

    params: tuple[SamplingParams, ...]
    prompt_lens: tuple[int, ...]
    lengths: tuple[int, ...]  # known tokens; the sampled one goes to this position
    rows: torch.Tensor  # int64 [S]
    positions: torch.Tensor  # int64 [S], = lengths
    outputs: torch.Tensor  # int64 [S], tokens generated before this one
    floats: torch.Tensor  # float32 [len(_FLOATS), S]
    ints: torch.Tensor  # int64 [len(_INTS), S]

    def generated(self, index: int) -> int:
        return self.lengths[index] - self.prompt_lens[index]


class Sampler:
    """Sampling parameters by row. Used by one thread, in the plans' order, like the table."""

    def __init__(
        self,
        table: RowTable,
        max_rows: int,
        device: torch.device,
        operations: Operations = TWINS,
        constrainer: Constrainer | None = None,
    ) -> None:
        """Without a `constrainer` no request may have a constraint."""
        self._table = table
        self._operations = operations
        self._device = device
        self._constrained = None if constrainer is None else ConstrainedRows(constrainer, self._known)
        self._requests: list[Request | None] = [None] * max_rows
        self._draws: tuple[list[int], torch.Tensor] | None = None  # of which the constraints do not know yet
        self._floats = torch.zeros(len(_FLOATS), max_rows, dtype=torch.float32, device=device)
        self._ints = torch.zeros(len(_INTS), max_rows, dtype=torch.int64, device=device)

    def apply(self, plan: StepPlan) -> None:
        """Note the parameters of the requests that start."""
        if self._constrained is not None:
            if plan.starts or plan.thinking_ends:
                self.advance()  # a row's last token is its last request's
            self._constrained.apply(plan)
        for start in plan.starts:
            params = start.request.sampling
            assert params.seed is not None, "the loop gives every request a seed"
            self._requests[start.row] = start.request
            floats = [getattr(params, name) for name in _FLOATS]
            self._floats[:, start.row] = torch.tensor(floats).to(self._device)
            self._ints[:, start.row] = torch.tensor([params.seed, params.top_k]).to(self._device)

    def sample(self, logits: torch.Tensor, work: Sequence[RowWork]) -> Sampled:
        """One token for each work item (all sample) from logits [S, V]; it becomes known in the table.

        The logits are the sampler's own from here on. `advance` was called since the last time.
        """
        batch = self._gather(work)
        allowed = Allowed() if self._constrained is None else self._constrained.allowed(work)
        asked = [(i, p.logprobs) for i, p in enumerate(batch.params) if p.logprobs is not None]
        shaped = self._penalize(logits, batch)
        if allowed.at:
            if asked and shaped is logits:
                shaped = logits.clone()
            self._restrict(shaped, allowed)
        tokens = kernels.sample(
            shaped, sampling_rows(batch), bias=self._bias(batch), draw=self._operations.draw
        )
        self._table.append(batch.rows, batch.positions, tokens)
        self._draws = [item.row for item in work], tokens
        if not asked:
            return Sampled(_HostCopy(tokens), failures=allowed.failures)
        at = torch.tensor([index for index, _ in asked]).to(self._device)
        found = kernels.logprobs(logits[at], tokens[at], max(count for _, count in asked))
        copy = _HostCopy(tokens, found.chosen, found.top_tokens, found.top)
        return Sampled(copy, tuple(asked), allowed.failures)

    def close(self) -> None:
        """Nothing may be sampled any more."""
        if self._constrained is not None:
            self._constrained.close()

    def advance(self) -> None:
        """Let constraints move on by the tokens that were drawn last: other threads do that.

        To be called where this thread is about to let go of the interpreter's lock for long.
        """
        if self._draws is None:
            return
        (rows, tokens), self._draws = self._draws, None
        if self._constrained is not None and self._constrained.holds(rows):
            self._constrained.drawn(rows, tokens.tolist())

    def _known(self, row: int, first: int, last: int) -> list[int]:
        found: list[int] = self._table.known(torch.tensor([row]).to(self._device), last)[0, first:].tolist()
        return found

    def _restrict(self, logits: torch.Tensor, allowed: Allowed) -> None:
        """In place, and only the constrained rows."""
        at = torch.from_numpy(np.array(allowed.at, np.int32))
        masks = torch.from_numpy(words(allowed.masks, logits.shape[1]))
        self._operations.restrict(logits, at.to(self._device), masks.to(self._device))

    def _gather(self, work: Sequence[RowWork]) -> _Batch:
        requests = [self._request(item.row) for item in work]
        prompt_lens = tuple(len(request.prompt) for request in requests)
        lengths = tuple(item.start + item.count for item in work)
        outputs = [length - prompt for length, prompt in zip(lengths, prompt_lens, strict=True)]
        on_device = torch.tensor([[item.row for item in work], lengths, outputs]).to(self._device)
        rows, positions, output_index = on_device.unbind()
        return _Batch(
            params=tuple(request.sampling for request in requests),
            prompt_lens=prompt_lens,
            lengths=lengths,
            rows=rows,
            positions=positions,
            outputs=output_index,
            floats=self._floats.index_select(1, rows),
            ints=self._ints.index_select(1, rows),
        )

    def _request(self, row: int) -> Request:
        request = self._requests[row]
        assert request is not None, f"row {row} was never started"
        return request

    def _penalize(self, logits: torch.Tensor, batch: _Batch) -> torch.Tensor:
        """Only the rows with penalties are counted and changed; [S, V] counts would be large."""
        penalized = [index for index, params in enumerate(batch.params) if params.has_penalties]
        if not penalized:
            return logits
        at = torch.tensor(penalized).to(self._device)
        longest = max(batch.lengths[index] for index in penalized)
        prompt_lens = torch.tensor([batch.prompt_lens[index] for index in penalized]).to(self._device)
        tokens = self._table.known(batch.rows[at], longest)
        counts = count_tokens(tokens, prompt_lens, batch.positions[at], logits.shape[-1])
        strengths = (batch.floats[_FLOATS.index(f"{name}_penalty"), at] for name in _PENALTIES)
        penalties = kernels.Penalties(*counts, *strengths)
        return logits.index_copy(0, at, kernels.penalize(logits[at], penalties))

    def _bias(self, batch: _Batch) -> kernels.Bias | None:
        """logit_bias, and -inf for the stop ids of rows that have not reached min_tokens."""
        entries = [
            (index, token, value)
            for index, params in enumerate(batch.params)
            for token, value in (*params.logit_bias, *forbidden(params, batch.generated(index)))
        ]
        if not entries:
            return None
        rows, tokens, values = zip(*entries, strict=True)
        on_device = torch.tensor([rows, tokens]).to(self._device)
        return kernels.Bias(on_device[0], on_device[1], torch.tensor(values).to(self._device))


_PENALTIES = ("presence", "frequency", "repetition")  # in the order of kernels.Penalties


def forbidden(params: SamplingParams, generated: int) -> list[tuple[int, float]]:
    if generated >= params.min_tokens:
        return []
    return [(token, -torch.inf) for token in sorted(params.stop_ids)]


def sampling_rows(batch: _Batch) -> kernels.SamplingRows:
    drawing = [params for params in batch.params if params.temperature > 0]
    seed, top_k = batch.ints
    temperature, top_p, min_p = batch.floats[:3]
    return kernels.SamplingRows(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        position=batch.outputs,
        draws=bool(drawing),
        truncates=any(p.top_k > 0 or p.top_p < 1 or p.min_p > 0 for p in drawing),
    )


def count_tokens(
    tokens: torch.Tensor, prompt_lens: torch.Tensor, lengths: torch.Tensor, vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(times generated int32 [N, V], in prompt bool [N, V]) of rows of known tokens int64 [N, L].

    Row n's prompt is its first prompt_lens[n] tokens, its output goes on to lengths[n]; both int64 [N].
    """
    position = torch.arange(tokens.shape[1], device=tokens.device)
    in_prompt = position < prompt_lens[:, None]
    in_output = (position < lengths[:, None]) & ~in_prompt
    safe = torch.where(in_prompt | in_output, tokens, 0)
    generated = torch.zeros(len(tokens), vocab_size, dtype=torch.int32, device=tokens.device)
    prompted = torch.zeros_like(generated)
    generated.scatter_add_(1, safe, in_output.int())
    prompted.scatter_add_(1, safe, in_prompt.int())
    return generated, prompted > 0


class _HostCopy:
    """Tensors on their way to the host. Nothing waits before `wait`."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self._host = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._done = torch.cuda.Event() if tensors[0].is_cuda else None
        if self._done is not None:
            self._done.record()

    def wait(self) -> list[torch.Tensor]:
        if self._done is not None:
            self._done.synchronize()
        return self._host


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a step sampled, while it may still be under way."""

    copy: _HostCopy
    asked: tuple[tuple[int, int], ...] = ()  # (index in the batch, top alternatives) of rows with logprobs
    failures: tuple[tuple[int, str], ...] = ()  # as in StepResult

    def to_host(self) -> tuple[tuple[int, ...], tuple[TokenLogprob | None, ...]]:
        """Blocks until the step is done."""
        tokens, *found = (tensor.tolist() for tensor in self.copy.wait())
        logprobs: list[TokenLogprob | None] = [None] * len(tokens)
        if found:
            for (index, count), chosen, top_tokens, top in zip(self.asked, *found, strict=True):
                best = tuple(zip(top_tokens[:count], top[:count], strict=True))
                logprobs[index] = TokenLogprob(tokens[index], chosen, best)
        return tuple(tokens), tuple(logprobs)
