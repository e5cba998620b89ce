"""The products in CUDA C++: beside their twins on a Hopper GPU; when they are taken; that they compile."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mosso.kernels.gpu import cuda_program, launch, moe, moe_hopper
from mosso.kernels.gpu.compile import resources
from mosso.kernels.gpu.cuda_program import CudaProgram
from mosso.kernels.gpu.launch import CHIPS
from mosso.kernels.gpu.moe import GpuExperts
from mosso.kernels.gpu.moe_hopper import TUNINGS, Tuning
from mosso.kernels.gpu.mxfp4_layout import packed_shapes
from mosso.kernels.gpu.router import Routing

from .conftest import close, poison
from .test_moe import LIMIT, routing, stored

HOPPER, SIZE, TOP = CHIPS["sm_90"], 2880, 4
CUDA = torch.device("cuda")
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != launch.HOPPER,
    reason="no Hopper GPU",
)


@pytest.fixture
def poisoned() -> None:
    """Not all that is allocated: to fill it would part kernels that are to overlap."""


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
    route, held = routed(64, 32, idle=64), weights(32)
    poison(monkeypatch)
    assert torch.isnan(moe.gate_up(normal(64, SIZE, seed=1), held, route, LIMIT)).all()
    assert torch.isnan(moe.down(normal(64 * TOP, SIZE, seed=1), held, route)).all()


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


# ---- when it is taken


@pytest.mark.parametrize(
    ("tokens", "experts", "pairs"),
    [
        (1, 32, None), (47, 32, None), (48, 32, 16), (64, 32, 16), (86, 32, 32), (128, 32, 32), (171, 32, 48),
        (256, 32, 48), (257, 32, 64), (341, 32, 64), (342, 32, 96), (512, 32, 96), (640, 32, 96),
        (641, 32, None), (8192, 32, None), (191, 128, None), (192, 128, 16), (1024, 128, 48), (2560, 128, 96),
        (2561, 128, None),
    ],
)  # fmt: skip
def test_blocks_hold_half_more_than_the_mean_list(tokens: int, experts: int, pairs: int | None) -> None:
    found = moe_hopper.tuning(tokens, TOP, experts, HOPPER)
    assert (found and found.pairs) == pairs
    assert moe_hopper.tuning(tokens, TOP, experts, CHIPS["sm_100"]) is None


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[CudaProgram]]:
    """Meta tensors stand for a Hopper's, and there is a compiler; the programs launched on them."""
    programs: list[CudaProgram] = []
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    monkeypatch.setattr(cuda_program, "compiler", lambda: (13, 0))
    launch.plan_for(HOPPER)
    with cuda_program.noting(programs.append):
        yield programs
    launch.plan_for(None)


def on_meta(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def layer(experts: int = 32, hidden: int = SIZE, inner: int = SIZE) -> GpuExperts:
    def matrices(rows: int, columns: int) -> list[torch.Tensor]:
        shapes = packed_shapes(experts, rows, columns)
        bias = on_meta(experts, rows, dtype=torch.bfloat16)
        return [*(on_meta(*shape, dtype=torch.int16) for shape in shapes), bias]

    return GpuExperts(*matrices(2 * inner, hidden), *matrices(hidden, inner))


def on_meta_routed(tokens: int, experts: int = 32) -> Routing:
    shares = on_meta(tokens, TOP, dtype=torch.float32)
    return Routing(on_meta(tokens, TOP), shares, on_meta(experts), on_meta(experts, tokens), shares)


def test_moe_launches_it_on_hopper(planned: list[CudaProgram]) -> None:
    route = on_meta_routed(100)
    act = moe.gate_up(on_meta(100, SIZE, dtype=torch.bfloat16), layer(), route, LIMIT)
    out = moe.down(act, layer(), route)
    assert (act.shape, out.shape) == ((400, SIZE), (100, TOP, SIZE))
    assert (act.dtype, out.dtype) == (torch.bfloat16, torch.bfloat16)
    assert [(program.kernel, program.arch) for program in planned] == [
        ("hopper_gate_up", "sm_90a"), ("hopper_down", "sm_90a"),
    ]  # fmt: skip
    assert "EXPERTS=32 ROWS=5760 K=2880 TOP=4 ALPHA=1.702f PAIRS=32" in planned[0].macros
    assert "EXPERTS=32 ROWS=2880 K=2880" in planned[1].macros


@pytest.mark.usefixtures("planned")
def test_what_does_not_suit_it_is_left_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(
        held: GpuExperts, tokens: int = 100, hidden: int = SIZE, dtype: torch.dtype = torch.bfloat16
    ) -> Tuning | None:
        route = on_meta_routed(tokens, len(held.down_bias))
        return moe_hopper.gate_up_choice(on_meta(tokens, hidden, dtype=dtype), held, route)

    assert chosen(layer()) == TUNINGS[1]
    assert chosen(layer(hidden=960), hidden=960) == TUNINGS[1]
    assert chosen(layer(), dtype=torch.float16) is None
    assert chosen(layer(), tokens=8) is None
    assert chosen(layer(experts=16), tokens=50) is None
    assert chosen(layer(hidden=SIZE - 32), hidden=SIZE - 32) is None  # half a chunk
    assert chosen(layer(inner=SIZE - 8)) is None  # half a tile of rows
    assert chosen(layer(hidden=1024), hidden=1024) is None  # 16 chunks, which no depth divides
    act, route = on_meta(400, SIZE, dtype=torch.bfloat16), on_meta_routed(100)
    assert moe_hopper.down_choice(act, layer(), route, torch.bfloat16) == TUNINGS[1]
    assert moe_hopper.down_choice(act, layer(), route, torch.float32) is None
    launch.plan_for(CHIPS["sm_100"])
    assert chosen(layer()) is None
    launch.plan_for(HOPPER)
    monkeypatch.setattr(cuda_program, "compiler", lambda: None)
    assert chosen(layer()) is None


# ---- that it compiles


@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda tuning: f"{tuning.pairs} pairs")
@pytest.mark.parametrize(("product", "rows"), [("gate_up", 2 * SIZE), ("down", SIZE)])
def test_it_compiles_into_a_multiprocessor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, experts: int, tuning: Tuning, product: str, rows: int
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    program = moe_hopper.program(product, tuning, experts, rows, SIZE, TOP, "sm_90")
    cubin = program.cubin() if cuda_program.compiler() else by_nvcc(program, tmp_path)
    assert cuda_program.constant(cubin, "shared_bytes") <= HOPPER.shared_memory
    threads = cuda_program.constant(cubin, "threads")
    assert threads == 128 * (tuning.groups + 1)
    used = resources(cubin)
    assert used.stack == 0
    assert used.registers * threads <= 1 << 16


def by_nvcc(program: CudaProgram, folder: Path) -> bytes:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("neither NVRTC nor nvcc")
    made = folder / "program.cubin"
    source = Path(cuda_program.__file__).parent / program.source
    macros = [f"-D{macro}" for macro in program.macros.split()]
    options = ["-cubin", f"-arch={program.arch}", "-std=c++20", *macros]
    subprocess.run([compiler, *options, str(source), "-o", str(made)], check=True)
    return made.read_bytes()
