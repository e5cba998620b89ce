"""What the GPU engine takes beside pages, in bytes: the kernels' layout of experts, workspaces, graphs.

By arithmetic alone, no torch. The engine measures what it can (weights, the workspace of a full step) and
takes these figures for what it cannot measure before the pages are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mosso.core.config import ModelConfig

CONTEXT_BYTES = 512 << 20  # an estimate: the bare CUDA context, which nothing measures
LIBRARIES_BYTES = 128 << 20  # an estimate: kernels, and the libraries' workspaces
GRAPH_NODE_BYTES = 8 << 10  # an estimate: what the driver keeps for each kernel of a graph
KERNELS_A_LAYER = 10
GRAPH_BYTES = 32 << 10  # an estimate: and for each graph
GRAPH_LIBRARY_BYTES = 64 << 20  # an estimate: the libraries' workspaces for the stream that captures
SHAPED_ROWS = 64  # rows whose logits are in memory at once
PENALIZED_ROWS = 16  # rows whose counts of tokens are
WORKSPACE_SLACK = 32 << 20  # what steps of other sizes may take beyond a full one

_TILE_ROWS, _CHUNK, _SCALES = 32, 64, 16  # of kernels.gpu.mxfp4_layout, which imports torch
_DECODE_SIZES = (
    *(1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512),
    *range(576, 1025, 64),
)
_PIECE_SIZES = (32, 64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536)


def decode_sizes(max_rows: int) -> tuple[int, ...]:
    """Numbers of rows that decode steps have graphs for, ascending, up to max_rows or a limit."""
    most = min(max_rows, _DECODE_SIZES[-1])
    return (*(size for size in _DECODE_SIZES if size < most), most)


def piece_sizes(token_budget: int) -> tuple[int, ...]:
    """Numbers of tokens that steps with prompts have graphs for, ascending. Longer ones need none: launching
    the kernels of a layer takes the host some 0.8 ms, as long as the device needs for 1,500 tokens of 20b."""
    return tuple(size for size in _PIECE_SIZES if size <= token_budget)


def packed_bytes(experts: int, rows: int, columns: int) -> tuple[int, int]:
    """Bytes of E matrices [rows, columns] in the kernels' layout: (words, scales), with their padding."""
    padded, chunks = _up(rows, _TILE_ROWS), _up(columns, _CHUNK) // _CHUNK
    return experts * padded * chunks * _CHUNK // 2, experts * padded * _up(chunks, _SCALES) * 2


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def step_bytes(config: ModelConfig, tokens: int) -> int:
    """Activations that live at once in the widest part of a layer; all but the stream in two bytes."""
    hidden, top_k = config.hidden_size, config.experts_per_token
    q, kv = config.num_heads * config.head_dim, 2 * config.num_kv_heads * config.head_dim
    stream = 4 * hidden + 2 * hidden  # and its norm
    attention = 2 * (q + kv + q)  # projections; what queries gather
    experts = 2 * top_k * (config.intermediate_size + hidden) + 2 * hidden + 4 * config.num_experts
    return tokens * (stream + max(attention, experts))


def logits_bytes(config: ModelConfig, max_rows: int) -> tuple[int, ...]:
    """Of logits that are shaped, tensor by tensor: themselves, a copy, their search; counts and terms of the
    penalties."""
    shaped, penalized = min(max_rows, SHAPED_ROWS), min(max_rows, PENALIZED_ROWS)
    row = 4 * config.vocab_size
    return (*[row * shaped] * 3, *[row * penalized] * 10)


def embedding_on_host(weight_bytes: int, memory: int) -> bool:
    """Whether the embedding leaves the device to the KV cache: where weights take most of `memory`.

    A token then reads its 5.6 KiB over the bus, some microseconds of a step.
    """
    return 2 * weight_bytes > memory


def graphs_bytes(
    config: ModelConfig, max_rows: int, token_budget: int, *, deterministic: bool = False
) -> int:
    """Graphs of every size, their common memory, and what they keep beside it."""
    sizes, pieces = decode_sizes(max_rows), piece_sizes(token_budget)
    own = 2 * _decode_graphs(config, sizes) + _piece_graphs(config, pieces, deterministic=deterministic)
    kept = 4 * config.hidden_size * sum(sizes) + between_bytes(config, max(pieces, default=0))
    return own + GRAPH_LIBRARY_BYTES + step_bytes(config, max(sizes[-1], *pieces, 0)) + kept


def late_graphs_bytes(config: ModelConfig, max_rows: int, token_budget: int, *, deterministic: bool) -> int:
    """What the driver keeps for the graphs that are captured only when a step first asks for them."""
    pieces = piece_sizes(token_budget)[:-1]
    decode = _decode_graphs(config, decode_sizes(max_rows))
    return decode + _piece_graphs(config, pieces, deterministic=deterministic)


def _decode_graphs(config: ModelConfig, sizes: Sequence[int]) -> int:
    return len(sizes) * (GRAPH_BYTES + (KERNELS_A_LAYER * config.num_layers + 8) * GRAPH_NODE_BYTES)


def _piece_graphs(config: ModelConfig, sizes: Sequence[int], *, deterministic: bool) -> int:
    """Deterministic products are of 64 tokens each."""
    kernels = sum(KERNELS_A_LAYER + (2 * -(-size // 64) if deterministic else 0) for size in sizes)
    graphs = len(sizes) * (config.num_layers + 1)
    return graphs * GRAPH_BYTES + kernels * config.num_layers * GRAPH_NODE_BYTES


def between_bytes(config: ModelConfig, tokens: int) -> int:
    """What passes between the pieces of a step: the stream, projections, what attention gathers."""
    q, kv = config.num_heads * config.head_dim, 2 * config.num_kv_heads * config.head_dim
    return tokens * (4 * config.hidden_size + 2 * (q + kv) + 2 * q)


def table_bytes(max_rows: int, max_context: int, page_size: int) -> int:
    """Known tokens and both page tables, of every row and the scratch row."""
    return 4 * (max_rows + 1) * (max_context + 1 + 2 * _up(-(-max_context // page_size), 4))


@dataclass(frozen=True, slots=True)
class GpuWorkspace:
    """Bytes by kind."""

    step: int  # activations, and shaped logits
    graphs: int
    tables: int  # of rows, and the scratch pages
    rotary: int
    context: int = CONTEXT_BYTES + LIBRARIES_BYTES


def gpu_workspace(
    config: ModelConfig, token_budget: int, max_rows: int, page_size: int, scratch_bytes: int
) -> GpuWorkspace:
    # An estimate: logits find room where activations were, but of a large step torch holds about as much more
    # than its activations. The engine measures both together.
    step = step_bytes(config, token_budget) + sum(logits_bytes(config, max_rows))
    return GpuWorkspace(
        step=step + WORKSPACE_SLACK,
        graphs=graphs_bytes(config, max_rows, token_budget),
        tables=table_bytes(max_rows, config.max_context, page_size) + scratch_bytes,
        rotary=4 * config.max_context * config.head_dim,
    )
