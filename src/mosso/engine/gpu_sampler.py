"""From the last hidden states of a step to its tokens, on the GPU.

Rows that ask for temperature alone are drawn within the head's product. For all others the logits are written
out and shaped as engine.sampler does: penalties, bias, constraints, then temperature and truncation; what few
rows ask for is computed for those rows only. A batch is drawn in one way or the other: in two parts it would
read the head's weights twice, which takes longer than all its logits do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mosso.core.requests import Request
from mosso.engine.constrained import Allowed, words
from mosso.engine.gpu_inputs import HostBatch, Layout, StepInputs
from mosso.engine.gpu_rows import RowParams
from mosso.engine.gpu_table import upload
from mosso.engine.sampler import count_tokens, forbidden
from mosso.kernels import sampling as kernels
from mosso.kernels.sampling import Logprobs
from mosso.model.gpu_forward import GpuModel
from mosso.model.gpu_plan import PENALIZED_ROWS, SHAPED_ROWS


@dataclass(frozen=True, slots=True)
class Draws:
    """Parameters of S rows on the device, where the step's inputs lie."""

    temperature: torch.Tensor  # float32 [S]
    top_p: torch.Tensor
    min_p: torch.Tensor
    top_k: torch.Tensor  # int32 [S]
    outputs: torch.Tensor  # int32 [S], tokens generated before
    seed: torch.Tensor  # int64 [S]
    rows: torch.Tensor  # int32 [S]
    positions: torch.Tensor  # int32 [S], of the tokens drawn from

    def part(self, those: slice) -> Draws:
        return Draws(*(getattr(self, name)[those] for name in self.__slots__))


def draws(inputs: StepInputs, place: Layout, *, decode: bool) -> Draws:
    """In a decode step the sampled tokens are the step's tokens."""
    size, part = place.samples, inputs.part
    floats, seed = inputs.floats, place.seed // 2
    return Draws(
        temperature=floats[place.temperature : place.temperature + size],
        top_p=floats[place.top_p : place.top_p + size],
        min_p=floats[place.min_p : place.min_p + size],
        top_k=part(place.top_k, size),
        outputs=part(place.outputs, size),
        seed=inputs.wide[seed : seed + size],
        rows=part(place.rows if decode else place.sample_rows, size),
        positions=part(place.positions if decode else place.sample_positions, size),
    )


def draw(model: GpuModel, h: torch.Tensor, rows: Draws) -> torch.Tensor:
    """Tokens int32 [S] of hidden states h [S, H]; they are known in the table from now on."""
    return model.ops.head_sample(
        h, model.weights.head, rows.temperature, rows.seed, rows.outputs,
        norm=model.head_norm, write=(model.tokens, rows.rows, rows.positions),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shaped:
    """What a step drew from shaped logits."""

    tokens: torch.Tensor  # int32 [S]
    asked: tuple[tuple[int, int], ...] = ()  # (sample, alternatives) of the rows that want log probabilities
    logprobs: Logprobs | None = None  # of those rows


@dataclass(frozen=True, slots=True)
class _Part:
    """Some samples of a step: on the device, and parallel on the host."""

    rows: Draws
    requests: list[Request]
    row_ids: np.ndarray
    lengths: np.ndarray  # known tokens; the sampled one goes to this position
    outputs: np.ndarray  # tokens generated before
    allowed: Allowed  # what the constrained ones may draw


def draw_shaped(
    model: GpuModel,
    h: torch.Tensor,
    rows: Draws,
    batch: HostBatch,
    params: RowParams,
    allowed: Allowed = Allowed(),  # noqa: B008 - a constant
) -> Shaped:
    """As `draw`, with all that the requests ask for; at most SHAPED_ROWS rows of logits live at once."""
    requests = [params.request(row) for row in batch.sample_rows]
    outputs = params.outputs(batch.sample_rows, batch.sample_positions)
    counts = [request.sampling.logprobs for request in requests]
    asked = tuple((index, count) for index, count in enumerate(counts) if count is not None)
    most = max((count for _, count in asked), default=0)
    tokens, found = [], []
    for first in range(0, len(requests), SHAPED_ROWS):
        those = slice(first, first + SHAPED_ROWS)
        part = _Part(
            rows.part(those),
            requests[those],
            batch.sample_rows[those],
            batch.sample_positions[those] + 1,
            outputs[those],
            allowed.part(first, first + SHAPED_ROWS),
        )
        wanted = [index for index, count in enumerate(counts[those]) if count is not None]
        drawn, logprobs = _draw_part(model, h[those], part, wanted, most)
        tokens.append(drawn)
        found += [] if logprobs is None else [logprobs]
    if not found:
        return Shaped(torch.cat(tokens))
    together = (torch.cat([getattr(each, name) for each in found]) for name in Logprobs.__slots__)
    return Shaped(torch.cat(tokens), asked, Logprobs(*together))


def _draw_part(
    model: GpuModel, h: torch.Tensor, part: _Part, wanted: list[int], most: int
) -> tuple[torch.Tensor, Logprobs | None]:
    """Tokens, and log probabilities of the samples `wanted` with `most` alternatives."""
    logits = model.ops.head(h, model.weights.head, norm=model.head_norm)
    at = upload(np.array(wanted, dtype=np.int32), h.device) if wanted else None
    plain = None if at is None else logits.index_select(0, at)  # before anything changes them
    _penalize(model, logits, part)
    _add_bias(logits, part)
    _restrict(model, logits, part.allowed)
    rows = part.rows
    tokens = model.ops.sample_truncated(
        logits, rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.seed, rows.outputs,
        write=(model.tokens, rows.rows, rows.positions),
    )  # fmt: skip
    if at is None or plain is None:
        return tokens, None
    return tokens, model.ops.logprobs(plain, tokens.index_select(0, at), most)


def _penalize(model: GpuModel, logits: torch.Tensor, part: _Part) -> None:
    """In place, and only the rows that ask for it."""
    chosen = [index for index, request in enumerate(part.requests) if request.sampling.has_penalties]
    for first in range(0, len(chosen), PENALIZED_ROWS):
        some = chosen[first : first + PENALIZED_ROWS]
        lengths = part.lengths[some]
        prompts = [len(part.requests[index].prompt) for index in some]
        numbers = np.array((some, part.row_ids[some], lengths, prompts), dtype=np.int64)
        at, row, length, prompt = upload(numbers, logits.device).unbind()
        known = model.tokens[:, : int(lengths.max())].index_select(0, row).long()
        counts = count_tokens(known, prompt, length, logits.shape[1])
        asked = [part.requests[index].sampling for index in some]
        strengths = np.array([[getattr(params, name) for params in asked] for name in _STRENGTHS], np.float32)
        penalties = kernels.Penalties(*counts, *upload(strengths, logits.device).unbind())
        logits.index_copy_(0, at, kernels.penalize(logits.index_select(0, at), penalties))


_STRENGTHS = ("presence_penalty", "frequency_penalty", "repetition_penalty")  # as in kernels.Penalties


def _add_bias(logits: torch.Tensor, part: _Part) -> None:
    """In place: logit_bias, and -inf for the stop ids of rows that have not reached min_tokens."""
    entries = list(_biases(part))
    if not entries:
        return
    index, token, value = zip(*entries, strict=True)
    at, ids = upload(np.array((index, token), dtype=np.int64), logits.device).unbind()
    values = upload(np.array(value, dtype=np.float32), logits.device)
    logits.index_put_((at, ids), values, accumulate=True)


def _restrict(model: GpuModel, logits: torch.Tensor, allowed: Allowed) -> None:
    """In place, and only the constrained rows."""
    if not allowed.at:
        return
    at = upload(np.array(allowed.at, dtype=np.int32), logits.device)
    model.ops.restrict(logits, at, upload(words(allowed.masks, logits.shape[1]), logits.device))


def _biases(part: _Part) -> Iterator[tuple[int, int, float]]:
    for index, request in enumerate(part.requests):
        params = request.sampling
        for token, value in (*params.logit_bias, *forbidden(params, int(part.outputs[index]))):
            yield index, token, value
