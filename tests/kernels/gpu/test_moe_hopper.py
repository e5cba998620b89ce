"""The products in CUDA C++: beside their twins on a Hopper GPU; when they are taken; that they compile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mosso.kernels.gpu import cuda_program, launch, moe, moe_hopper
from mosso.kernels.gpu.launch import CHIPS
from mosso.kernels.gpu.moe import GpuExperts
from mosso.kernels.gpu.moe_hopper import TUNINGS, Tuning
from mosso.kernels.gpu.router import Routing

from .conftest import close
from .test_moe import LIMIT, poison, routing, stored

HOPPER, SIZE, TOP = CHIPS["sm_90"], 2880, 4
CUDA = torch.device("cuda")
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != launch.HOPPER,
    reason="no Hopper GPU",
)


# ---- on the GPU


@functools.lru_cache(maxsize=2)
def weights(experts: int) -> GpuExperts:
    generator = torch.Generator(CUDA).manual_seed(experts)

    def bias(rows: int) -> torch.Tensor:
        return torch.randn(experts, rows, generator=generator, device=CUDA).bfloat16()

    return moe.pack_experts(
        *stored(generator, experts, 2 * SIZE, SIZE), bias(2 * SIZE),
        *stored(generator, experts, SIZE, SIZE), bias(SIZE),
    )  # fmt: skip


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator(CUDA).manual_seed(seed), device=CUDA).bfloat16()


def even(scores: torch.Tensor) -> torch.Tensor:
    return scores


def one_expert_for_all(scores: torch.Tensor) -> torch.Tensor:
    scores[:, 3] += 2
    return scores


def idle_experts(scores: torch.Tensor) -> torch.Tensor:
    scores[:, 1:-5] -= 2  # only the first and the last five are chosen
    return scores


def routed(
    tokens: int, experts: int, idle: int = 0, skew: Callable[[torch.Tensor], torch.Tensor] = even
) -> Routing:
    scores = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(tokens))
    return routing(skew(scores), TOP, idle, CUDA)


def compare(monkeypatch: pytest.MonkeyPatch, experts: int, route: Routing, tuning: Tuning, idle: int) -> None:
    """Both products beside the twins in float32; what belongs to no list stays as it was."""
    tokens = len(route.chosen)
    real = tokens - idle
    held, x = weights(experts), normal(tokens, SIZE, seed=tokens)
    act = normal(tokens * TOP, SIZE, seed=tokens + 1)
    want_act = moe.gate_up_twin(x.float(), held, route, LIMIT)
    want = moe.down_twin(act.float(), held, route)
    poison(monkeypatch)
    got_act = moe_hopper.gate_up(x, held, route, LIMIT, tuning)
    got = moe_hopper.down(act, held, route, None, tuning)
    assert (got_act.dtype, got.dtype) == (torch.bfloat16, torch.bfloat16)
    close(got_act[: real * TOP], want_act[: real * TOP], worst=4e-3, rms=2e-3)
    close(got[:real], want[:real], worst=4e-3, rms=2e-3)
    assert torch.isnan(got_act[real * TOP :]).all()
    assert torch.isnan(got[real:]).all()


@on_hopper
@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda tuning: f"{tuning.pairs} pairs")
@pytest.mark.parametrize(("tokens", "idle"), [(33, 0), (64, 3), (100, 1), (250, 0), (511, 17)])
def test_products_are_their_twins(
    monkeypatch: pytest.MonkeyPatch, experts: int, tuning: Tuning, tokens: int, idle: int
) -> None:
    compare(monkeypatch, experts, routed(tokens, experts, idle), tuning, idle)


@on_hopper
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda tuning: f"{tuning.pairs} pairs")
@pytest.mark.parametrize("skew", [one_expert_for_all, idle_experts])
@pytest.mark.parametrize(("tokens", "experts"), [(5, 32), (511, 32), (100, 128)])
def test_uneven_lists(
    monkeypatch: pytest.MonkeyPatch,
    tuning: Tuning,
    skew: Callable[[torch.Tensor], torch.Tensor],
    tokens: int,
    experts: int,
) -> None:
    compare(monkeypatch, experts, routed(tokens, experts, skew=skew), tuning, 0)


@on_hopper
def test_no_pair_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    route = routed(64, 32, idle=64)
    poison(monkeypatch)
    assert torch.isnan(moe.gate_up(normal(64, SIZE, seed=1), weights(32), route, LIMIT)).all()
    assert torch.isnan(moe.down(normal(64 * TOP, SIZE, seed=1), weights(32), route)).all()


@on_hopper
def test_lists_may_be_a_part_of_wider_ones() -> None:
    route, held, x = routed(64, 32), weights(32), normal(64, SIZE, seed=1)
    wide = torch.full((32, 100), -(1 << 20), dtype=torch.int32, device=CUDA)
    wide[:, :64] = route.lists
    want = moe_hopper.gate_up(x, held, route, LIMIT)
    assert torch.equal(moe_hopper.gate_up(x, held, replace(route, lists=wide[:, :64]), LIMIT), want)


@on_hopper
def test_the_wrappers_of_moe_take_it_and_a_tile_keeps_tritons(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    start = cuda_program.launch
    monkeypatch.setattr(
        cuda_program,
        "launch",
        lambda program, *rest: (launched.append(program.kernel), start(program, *rest)),
    )
    route, held, x = routed(64, 32), weights(32), normal(64, SIZE, seed=1)
    act = moe.gate_up(x, held, route, LIMIT)
    moe.down(act, held, route)
    assert launched == ["hopper_gate_up", "hopper_down"]
    tile = moe.gate_up_tile(64, TOP, 32, HOPPER.shared_memory)
    close(moe.gate_up(x, held, route, LIMIT, tile), act, worst=1e-2, rms=4e-3)
    moe.down(act, held, route, torch.float32)
    assert len(launched) == 2


@on_hopper
@pytest.mark.parametrize("tokens", [64, 128, 250, 330, 511])
def test_a_graphs_replays_give_the_same_bits(tokens: int) -> None:
    """Two inputs in turn, so that what is left of a replay is never what the next one should give."""
    held, inputs = weights(32), [normal(tokens, SIZE, seed=seed) for seed in (1, 2)]
    route, x = routed(tokens, 32), torch.empty_like(inputs[0])

    def both(x: torch.Tensor) -> torch.Tensor:
        return moe.down(moe.gate_up(x, held, route, LIMIT), held, route)

    want = [both(each) for each in inputs]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = both(x)
    for replay in range(50):
        x.copy_(inputs[replay % 2])
        graph.replay()
        assert torch.equal(result, want[replay % 2]), f"replay {replay}"


@on_hopper
def test_launches_in_turn_give_the_same_bits() -> None:
    """Without a graph and without waiting: each kernel starts while the one ahead of it runs."""
    held, route = weights(32), routed(300, 32)
    inputs = [normal(300, SIZE, seed=seed) for seed in (1, 2)]

    def both(x: torch.Tensor) -> torch.Tensor:
        return moe.down(moe.gate_up(x, held, route, LIMIT), held, route)

    want = [both(each) for each in inputs]
    torch.cuda.synchronize()
    got = [both(inputs[turn % 2]) for turn in range(50)]
    assert [torch.equal(result, want[turn % 2]) for turn, result in enumerate(got)] == [True] * 50
