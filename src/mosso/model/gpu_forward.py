"""The forward pass of the GPU engine: decode tokens and prompt spans in one batch, over the row tables.

What a step costs is set by how often the weights are read and by how many kernels start, so there are three
ways through a layer, by the number of tokens:

    few    norm, QKV product, rotation and page write are one kernel; norm and router another
    some   the library's QKV product; the output product adds to the stream itself
    many   the library's matrix products; each norm goes with the addition before it

The residual stream is float32 in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mosso.core.config import ModelConfig
from mosso.kernels.gpu.router import Routing
from mosso.model.gpu_operations import GpuOperations
from mosso.model.gpu_weights import GpuLayer, GpuWeights
from mosso.model.paged import PagedKV

FULL, WINDOW = 0, 1  # groups of pages


@dataclass(frozen=True, slots=True)
class GpuSpans:
    """N stretches of prompts, each contiguous. Span n has the tokens query_starts[n] up to
    query_starts[n + 1] of those behind the decode tokens, the last of its row's context_lens[n] positions."""

    rows: torch.Tensor  # int32 [N]
    query_starts: torch.Tensor  # int32 [N + 1]
    context_lens: torch.Tensor  # int32 [N]
    longest: int  # tokens of the longest span


@dataclass(frozen=True, slots=True)
class GpuStep:
    """T tokens: first the decode tokens, one a row, then the spans'; padding, on the scratch row, last."""

    rows: torch.Tensor  # int32 [T]
    positions: torch.Tensor  # int32 [T]
    active: torch.Tensor  # int32 [1], how many tokens are real
    decodes: int  # tokens ahead of the spans; without spans padding may count as such
    spans: GpuSpans | None = None
    sample_at: torch.Tensor | None = None  # int32 [S], the tokens that are sampled; None: all of them


@dataclass(frozen=True, slots=True)
class GpuModel:
    """Everything that steps read, and the pools that they write."""

    weights: GpuWeights
    config: ModelConfig
    kv: PagedKV
    tokens: torch.Tensor  # int32 [R, C], known tokens of each row
    pages: torch.Tensor  # int32 [2, R, P], page tables of the groups FULL and WINDOW
    ops: GpuOperations

    @property
    def head_norm(self) -> tuple[torch.Tensor, float]:
        """The norm that the head applies to what `forward` gives."""
        return self.weights.norm, self.config.rms_norm_eps


def one_of_each(model: GpuModel) -> GpuModel:
    """Its first layers, up to one of each kind (sliding or not): they launch all that the whole does."""
    sliding = model.config.sliding
    count = next((index + 1 for index, kind in enumerate(sliding) if kind != sliding[0]), 1)
    return replace(model, weights=replace(model.weights, layers=model.weights.layers[:count]))


def forward(model: GpuModel, step: GpuStep) -> torch.Tensor:
    """Writes the step's keys and values into their pages; returns the residual stream of the sampled tokens,
    float32 [S, H], before the last norm.

    Every earlier position of each row must have been computed by an earlier step. Never waits for the device,
    and looks at no value on it, so that it can be captured.
    """
    ops = model.ops
    if ops.uniform:
        step = all_spans(step)
    x = ops.embed(model.tokens, step.rows, step.positions, model.weights.embedding)
    if len(x) <= ops.few_tokens:
        _few(model, step, x)
    elif len(x) <= ops.some_tokens:
        _some(model, step, x)
    else:
        _many(model, step, x)
    return x if step.sample_at is None else x.index_select(0, step.sample_at)


def all_spans(step: GpuStep) -> GpuStep:
    """The same step with each decode token as a span of one."""
    split, spans = step.decodes, step.spans
    if not split:
        return step
    starts = torch.arange(split + 1, dtype=torch.int32, device=step.rows.device)
    rows, contexts = step.rows[:split], step.positions[:split] + 1
    if spans is not None:
        rows = torch.cat((rows, spans.rows))
        starts = torch.cat((starts[:-1], spans.query_starts + split))
        contexts = torch.cat((contexts, spans.context_lens))
    longest = 1 if spans is None else spans.longest
    return replace(step, decodes=0, spans=GpuSpans(rows, starts, contexts, longest))


def _few(model: GpuModel, step: GpuStep, x: torch.Tensor) -> None:
    ops, kv, eps = model.ops, model.kv, model.config.rms_norm_eps
    for index, layer in enumerate(model.weights.layers):
        q = ops.qkv_small(
            x, (layer.attention_norm, eps), layer.qkv, layer.qkv_bias,
            kv.cos, kv.sin, step.rows, step.positions, _pages(model, index), kv.pools[index],
        )  # fmt: skip
        gathered = attention(model, step, index, q).flatten(1)
        ops.linear_small(gathered, layer.out, layer.out_bias, residual=x)
        ops.combine(x, _experts(model, step, layer, x))


def _some(model: GpuModel, step: GpuStep, x: torch.Tensor) -> None:
    normed = first_norm(model, x)
    for index, layer in enumerate(model.weights.layers):
        qkv = project(model, step, index, normed)
        gathered = attention(model, step, index, queries(model, qkv)).flatten(1)
        model.ops.linear_small(gathered, layer.out, layer.out_bias, residual=x)
        normed = _combined(model, index, x, _experts(model, step, layer, x))


def _many(model: GpuModel, step: GpuStep, x: torch.Tensor) -> None:
    config, layers = model.config, model.weights.layers
    normed = first_norm(model, x)
    counts = torch.zeros(len(layers), config.num_experts, dtype=torch.int32, device=x.device)
    for index in range(len(layers)):
        normed = add_norm(model, index, x, _attended(model, step, index, normed))
        normed = feed_forward(model, step, index, x, normed, counts[index])


def _attended(model: GpuModel, step: GpuStep, index: int, normed: torch.Tensor) -> torch.Tensor:
    """What attention adds to the stream. In a function, so that its tensors are gone in what follows."""
    qkv = project(model, step, index, normed)
    return output(model, index, attention(model, step, index, queries(model, qkv)))


# What a layer of many tokens consists of. All but `attention` depends on the number of tokens alone.


def first_norm(model: GpuModel, x: torch.Tensor) -> torch.Tensor:
    """The normed stream that the first layer reads."""
    first = model.weights.layers[0]
    return model.ops.rms_norm(x, first.attention_norm, model.config.rms_norm_eps, first.qkv.dtype)


def project(
    model: GpuModel, step: GpuStep, index: int, normed: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Rotated queries and keys, and values [T, (heads + 2·KV) · D]; the latter two are in their pages too."""
    layer = model.weights.layers[index]
    qkv = model.ops.linear(normed, layer.qkv, layer.qkv_bias, out=out)
    _rotate(model, step, index, qkv)
    return qkv


def output(model: GpuModel, index: int, gathered: torch.Tensor) -> torch.Tensor:
    """What attention adds to the stream, of what it gathered."""
    layer = model.weights.layers[index]
    return model.ops.linear(gathered.flatten(1), layer.out, layer.out_bias)


def add_norm(model: GpuModel, index: int, x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """x += delta; the normed stream that the experts read. Apart from them, so that delta is gone then."""
    layer = model.weights.layers[index]
    return model.ops.add_rms_norm(x, delta, layer.mlp_norm, model.config.rms_norm_eps)


def feed_forward(
    model: GpuModel, step: GpuStep, index: int, x: torch.Tensor, normed: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """x += what the experts give; the normed stream that the next layer reads.

    counts int32 [E] are zeros, and the pairs of each expert afterwards.
    """
    config, layer = model.config, model.weights.layers[index]
    routing = model.ops.route(
        normed, layer.router, layer.router_bias, config.experts_per_token, step.active, counts=counts
    )
    return _combined(model, index, x, _parts(model, layer, normed, routing))


def queries(model: GpuModel, qkv: torch.Tensor) -> torch.Tensor:
    """[T, heads, D], within qkv."""
    return qkv.unflatten(1, (-1, model.config.head_dim))[:, : model.config.num_heads]


def attention(
    model: GpuModel, step: GpuStep, index: int, q: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """What the tokens gather, [T, heads, D]; the step's keys and values are in their pages already.

    What padding gathers behind spans is not written.
    """
    ops, config, sinks = model.ops, model.config, model.weights.layers[index].sinks
    pool, pages = model.kv.pools[index], _pages(model, index)
    window = config.window if config.sliding[index] else None
    split, spans = step.decodes, step.spans
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    if split:
        rows, positions = step.rows[:split], step.positions[:split]
        ops.decode_attention(q[:split], pool, pages, rows, positions, sinks, window, out=out[:split])
    if spans is not None:
        ops.prefill_attention(
            q[split:], pool, pages, spans.rows, spans.query_starts, spans.context_lens, sinks, window,
            max_query=spans.longest, deterministic=ops.uniform, out=out[split:],
        )  # fmt: skip
    return out


def _pages(model: GpuModel, index: int) -> torch.Tensor:
    return model.pages[WINDOW if model.config.sliding[index] else FULL]


def _rotate(model: GpuModel, step: GpuStep, index: int, qkv: torch.Tensor) -> None:
    """Queries and keys turn in place; keys and values go to their pages."""
    kv, pages = model.kv, _pages(model, index)
    model.ops.rotate_and_store(qkv, kv.cos, kv.sin, step.rows, step.positions, pages, kv.pools[index])


def _experts(model: GpuModel, step: GpuStep, layer: GpuLayer, x: torch.Tensor) -> torch.Tensor:
    """Parts [T, k, H] that the experts add to x; its norm goes with the router."""
    ops, config = model.ops, model.config
    norm = (layer.mlp_norm, config.rms_norm_eps)
    routing = ops.route(x, layer.router, layer.router_bias, config.experts_per_token, step.active, norm=norm)
    return _parts(model, layer, routing.normed, routing)


def _parts(model: GpuModel, layer: GpuLayer, normed: torch.Tensor, routing: Routing) -> torch.Tensor:
    act = model.ops.gate_up(normed, layer.experts, routing, model.config.swiglu_limit)
    return model.ops.down(act, layer.experts, routing)


def _combined(model: GpuModel, index: int, x: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """x += parts; the normed stream that the next layer reads. After the last layer nobody reads it."""
    ops, layers = model.ops, model.weights.layers
    if index + 1 == len(layers):
        ops.combine(x, parts)
        return x
    after = layers[index + 1]
    return ops.combine_rms_norm(x, parts, after.attention_norm, model.config.rms_norm_eps, after.qkv.dtype)
