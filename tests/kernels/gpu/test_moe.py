"""The MXFP4 products against their twins, and the layout against the checkpoint's own definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mosso.core.errors import CheckpointError
from mosso.kernels import mxfp4
from mosso.kernels.gpu import moe
from mosso.kernels.gpu.mxfp4_layout import interleave_gate_up, pack, unpack
from mosso.kernels.gpu.router import Routing

from .conftest import close

LIMIT = 7.0


def stored(generator: torch.Generator, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random blocks and scales of matrices [..., N, K] as a checkpoint stores them."""
    *outer, columns = shape
    groups = columns // 32
    options = {"generator": generator, "dtype": torch.uint8, "device": generator.device}
    blocks = torch.randint(0, 256, (*outer, groups, 16), **options)
    return blocks, torch.randint(118, 122, (*outer, groups), **options)


@pytest.mark.parametrize(("rows", "columns"), [(64, 128), (40, 96), (33, 32)])
def test_packed_words_are_the_checkpoints_values(rows: int, columns: int) -> None:
    blocks, scales = stored(torch.Generator().manual_seed(0), 3, rows, columns)
    words, fields = pack(blocks, scales)
    assert torch.equal(unpack(words, fields, rows, columns), mxfp4.dequantize(blocks, scales, torch.float32))


def test_every_scale_that_a_word_can_hold_comes_back_and_larger_ones_are_refused() -> None:
    scales = torch.arange(0, 129, dtype=torch.uint8)[None, :, None].expand(1, 129, 2).contiguous()
    blocks = torch.randint(0, 256, (1, 129, 2, 16), dtype=torch.uint8)
    words, fields = pack(blocks, scales)
    assert torch.equal(unpack(words, fields, 129, 64), mxfp4.dequantize(blocks, scales, torch.float32))
    scales[0, 5, 1] = 129
    with pytest.raises(CheckpointError, match="129"):
        pack(blocks, scales)


def test_gates_and_ups_lie_eight_rows_apart() -> None:
    rows = interleave_gate_up(torch.arange(32)[None])
    assert rows[0, :16].tolist() == [*range(0, 16, 2), *range(1, 16, 2)]


class Case:
    """A layer with `tokens` tokens, each routed to four experts, the last `idle` of them to none."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        tokens: int,
        hidden: int,
        inner: int,
        experts: int,
        idle: int = 0,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, device=device).to(dtype)

        self.experts = moe.pack_experts(
            *stored(generator, experts, 2 * inner, hidden),
            normal(experts, 2 * inner),
            *stored(generator, experts, hidden, inner),
            normal(experts, hidden),
        )
        self.x, self.act = normal(tokens, hidden), normal(tokens * 4, inner)
        scores = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(seed))
        self.routing = routing(scores, 4, idle, device)
        self.real = 4 * (tokens - idle)


def routing(scores: torch.Tensor, top_k: int, idle: int, device: torch.device) -> Routing:
    tokens, experts = scores.shape
    values, chosen = scores.topk(top_k, dim=-1)
    chosen[tokens - idle :] = experts
    lists = torch.full(
        (experts, tokens), -(1 << 20), dtype=torch.int32
    )  # what is past a count must not be used
    counts = torch.zeros(experts, dtype=torch.int32)
    for pair in torch.randperm(tokens * top_k).tolist():
        expert = int(chosen.view(-1)[pair])
        if expert < experts:
            lists[expert, counts[expert]] = pair
            counts[expert] += 1
    return Routing(
        chosen=chosen.int().to(device),
        shares=values.softmax(-1).float().to(device),
        counts=counts.to(device),
        lists=lists.to(device),
        normed=torch.empty(0, device=device),
    )


SMALL = [(1, 64, 64, 4, 0), (3, 96, 96, 4, 1), (17, 128, 64, 8, 3)]
LARGE = [
    (tokens, 2880, 2880, experts, idle)
    for experts, tokens, idle in (
        (32, 1, 0),
        (32, 5, 1),
        (32, 33, 1),
        (32, 129, 2),
        (32, 512, 0),
        (32, 1500, 7),
        (128, 1, 0),
        (128, 64, 3),
    )
]


def shapes() -> list[tuple[int, int, int, int, int]]:
    return LARGE if torch.cuda.is_available() else SMALL


@pytest.mark.parametrize(("tokens", "hidden", "inner", "experts", "idle"), shapes())
def test_gate_up_is_its_twin(
    device: torch.device,
    dtype: torch.dtype,
    tokens: int,
    hidden: int,
    inner: int,
    experts: int,
    idle: int,
) -> None:
    case = Case(device, dtype, tokens=tokens, hidden=hidden, inner=inner, experts=experts, idle=idle)
    want = moe.gate_up_twin(case.x, case.experts, case.routing, LIMIT)
    got = moe.gate_up(case.x, case.experts, case.routing, LIMIT)
    close(got[: case.real], want[: case.real], worst=1e-2, rms=4e-3)


@pytest.mark.parametrize(("tokens", "hidden", "inner", "experts", "idle"), shapes())
def test_down_is_its_twin(
    device: torch.device,
    dtype: torch.dtype,
    tokens: int,
    hidden: int,
    inner: int,
    experts: int,
    idle: int,
) -> None:
    case = Case(device, dtype, tokens=tokens, hidden=hidden, inner=inner, experts=experts, idle=idle)
    want = moe.down_twin(case.act, case.experts, case.routing, torch.float32)
    got = moe.down(case.act, case.experts, case.routing, torch.float32)
    real = tokens - idle
    assert got.shape[1] in (want.shape[1], 3 * want.shape[1], 5 * want.shape[1])
    close(got[:real].sum(1), want[:real].sum(1), worst=1e-4, rms=1e-5)


def test_the_inner_axis_can_be_shared(device: torch.device, dtype: torch.dtype) -> None:
    case = Case(device, dtype, tokens=3, hidden=64, inner=384, experts=4)
    want = moe.down_twin(case.act, case.experts, case.routing, torch.float32)
    got = moe.down(case.act, case.experts, case.routing, torch.float32, moe.Tile(64, 16, 5, 4, 3, splits=3))
    assert got.shape == (3, 12, 64)
    close(got.sum(1), want.sum(1), worst=1e-4, rms=1e-5)


@pytest.mark.parametrize(("tokens", "pairs"), [(9, 128), (70, 128), (40, 256), (100, 256), (150, 256)])
def test_few_pairs_at_the_end_of_a_list_take_a_part_of_a_block(
    device: torch.device, dtype: torch.dtype, tokens: int, pairs: int
) -> None:
    case = Case(device, dtype, tokens=tokens, hidden=64, inner=64, experts=4)
    tile = moe.Tile(64, pairs, 1, 4, 2)
    want = moe.gate_up_twin(case.x, case.experts, case.routing, LIMIT)
    close(moe.gate_up(case.x, case.experts, case.routing, LIMIT, tile), want, worst=1e-2, rms=4e-3)
    want = moe.down_twin(case.act, case.experts, case.routing, torch.float32)
    got = moe.down(case.act, case.experts, case.routing, torch.float32, tile)
    close(got, want, worst=1e-4, rms=1e-5)


def test_a_pairs_result_does_not_hang_on_the_pairs_beside_it(
    device: torch.device, dtype: torch.dtype
) -> None:
    tokens, size = (65, 2880) if device.type == "cuda" else (7, 64)
    case = Case(device, dtype, tokens=tokens, hidden=size, inner=size, experts=8)
    tile = moe.gate_up_tile(tokens, 4, 8, 227 << 10)
    together = moe.gate_up(case.x, case.experts, case.routing, LIMIT, tile)
    lists = case.routing.lists.clone()
    for expert, count in enumerate(case.routing.counts.tolist()):
        lists[expert, :count] = lists[expert, :count].flip(0)
    shuffled = moe.gate_up(case.x, case.experts, replace(case.routing, lists=lists), LIMIT, tile)
    assert torch.equal(together, shuffled)


def test_the_twins_compute_the_plain_expert_layer(device: torch.device) -> None:
    from mosso.kernels.experts import PackedExperts, mix

    generator = torch.Generator().manual_seed(1)
    gate_up, down = stored(generator, 8, 128, 96), stored(generator, 8, 96, 64)
    bias = torch.randn(8, 128, generator=generator), torch.randn(8, 96, generator=generator)
    plain = PackedExperts(*gate_up, bias[0], *down, bias[1])
    packed = moe.pack_experts(*gate_up, bias[0], *down, bias[1])
    x = torch.randn(5, 96, generator=generator)
    route = routing(torch.rand(5, 8, generator=generator), 4, 0, torch.device("cpu"))
    want = mix(x, route.chosen.long(), route.shares, plain, LIMIT)
    act = moe.gate_up_twin(x, packed, route, LIMIT)
    close(moe.down_twin(act, packed, route).sum(1), want, worst=1e-5, rms=1e-6)
