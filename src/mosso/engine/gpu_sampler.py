"""From the last hidden states of a step to its tokens, on the GPU.

Rows that ask for temperature alone are drawn within the head's product. For all others the logits are written
out and shaped as engine.sampler does: penalties, bias, then temperature and truncation; what few rows ask for
is computed for those rows only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mosso.core.requests import Request
from mosso.engine.gpu_inputs import HostBatch, Layout, StepInputs
from mosso.engine.gpu_rows import RowParams
from mosso.engine.gpu_table import upload
from mosso.engine.sampler import count_tokens, forbidden
from mosso.kernels import sampling as kernels
from mosso.kernels.sampling import Logprobs
from mosso.model.gpu_forward import GpuModel

PENALIZED_AT_ONCE = 16  # rows; their counts are [rows, V]


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

    def first(self, count: int) -> Draws:
        return Draws(*(getattr(self, name)[:count] for name in self.__slots__))


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


def draw_shaped(model: GpuModel, h: torch.Tensor, rows: Draws, batch: HostBatch, params: RowParams) -> Shaped:
    """As `draw`, with all that the requests ask for."""
    requests = [params.request(row) for row in batch.sample_rows]
    outputs = params.outputs(batch.sample_rows, batch.sample_positions)
    logits = model.ops.head(h, model.weights.head, norm=model.head_norm)
    asked = [(i, r.sampling.logprobs) for i, r in enumerate(requests) if r.sampling.logprobs is not None]
    wanted = upload(np.array([index for index, _ in asked], dtype=np.int32), h.device) if asked else None
    plain = logits.index_select(0, wanted) if wanted is not None else None  # before anything changes them
    _penalize(model, logits, rows, batch, requests)
    _add_bias(logits, requests, outputs)
    tokens = model.ops.sample_truncated(
        logits, rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.seed, rows.outputs,
        write=(model.tokens, rows.rows, rows.positions),
    )  # fmt: skip
    if wanted is None or plain is None:
        return Shaped(tokens)
    found = model.ops.logprobs(plain, tokens.index_select(0, wanted), max(count for _, count in asked))
    return Shaped(tokens, tuple(asked), found)


def _penalize(
    model: GpuModel, logits: torch.Tensor, rows: Draws, batch: HostBatch, requests: list[Request]
) -> None:
    """In place."""
    chosen = [index for index, request in enumerate(requests) if request.sampling.has_penalties]
    for first in range(0, len(chosen), PENALIZED_AT_ONCE):
        part = chosen[first : first + PENALIZED_AT_ONCE]
        lengths = batch.sample_positions[part].astype(np.int64) + 1
        prompts = np.array([len(requests[index].prompt) for index in part])
        numbers = np.stack((np.array(part), batch.sample_rows[part].astype(np.int64), lengths, prompts))
        at, row, length, prompt = upload(numbers, logits.device).unbind()
        known = model.tokens[:, : int(lengths.max())].index_select(0, row).long()
        counts = count_tokens(known, prompt, length, logits.shape[1])
        strengths = np.array([[getattr(requests[i].sampling, name) for i in part] for name in _STRENGTHS])
        penalties = kernels.Penalties(*counts, *upload(strengths.astype(np.float32), logits.device).unbind())
        logits.index_copy_(0, at, kernels.penalize(logits.index_select(0, at), penalties))


_STRENGTHS = ("presence_penalty", "frequency_penalty", "repetition_penalty")  # as in kernels.Penalties


def _add_bias(logits: torch.Tensor, requests: list[Request], outputs: np.ndarray) -> None:
    """In place: logit_bias, and -inf for the stop ids of rows that have not reached min_tokens."""
    entries = list(_biases(requests, outputs))
    if not entries:
        return
    index, token, value = zip(*entries, strict=True)
    at, ids = upload(np.array((index, token), dtype=np.int64), logits.device).unbind()
    values = upload(np.array(value, dtype=np.float32), logits.device)
    logits.index_put_((at, ids), values, accumulate=True)


def _biases(requests: list[Request], outputs: np.ndarray) -> Iterator[tuple[int, int, float]]:
    for index, request in enumerate(requests):
        params = request.sampling
        for token, value in (*params.logit_bias, *forbidden(params, int(outputs[index]))):
            yield index, token, value
