"""Long prompts through layers of the published shape, every kernel beside its twin on the same inputs.

Needs a GPU: in Triton's interpreter these shapes would take hours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no build for this system")

from mosso.bench.accuracy import GpuRows
from mosso.core.config import GPT_OSS_20B, ModelConfig
from mosso.core.steps import RowWork
from mosso.engine.gpu_graphs import PieceGraphs
from mosso.engine.gpu_inputs import StepInputs, gather, pack
from mosso.engine.gpu_memory import LastingMemory
from mosso.engine.gpu_rows import RowParams
from mosso.kernels.gpu.moe import pack_experts
from mosso.model.gpu_forward import forward
from mosso.model.gpu_operations import TRITON, TWINS, GpuOperations, deterministic
from mosso.model.gpu_weights import GpuLayer, GpuWeights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CONFIG = replace(GPT_OSS_20B, num_layers=2, sliding=(), vocab_size=4096)
CHECKED = (
    "embed", "rms_norm", "add_rms_norm", "combine_rms_norm", "qkv_small", "linear_small", "decode_attention",
    "prefill_attention", "gate_up", "down", "head",
)  # fmt: skip
LIMIT = 2e-2  # relative RMS: the twins round to bfloat16 at other places


def draw(*shape: int, std: float = 0.02) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda") * std).bfloat16()


def stored(experts: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    options: dict[str, Any] = {"dtype": torch.uint8, "device": "cuda"}
    blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), **options)
    return blocks, torch.randint(118, 121, (experts, rows, columns // 32), **options)


def layer(config: ModelConfig) -> GpuLayer:
    hidden, inner, experts = config.hidden_size, config.intermediate_size, config.num_experts
    heads = config.num_heads * config.head_dim
    qkv = heads + 2 * config.num_kv_heads * config.head_dim
    return GpuLayer(
        attention_norm=torch.ones(hidden, device="cuda"),
        qkv=draw(qkv, hidden),
        qkv_bias=draw(qkv),
        sinks=torch.randn(config.num_heads, device="cuda"),
        out=draw(hidden, heads),
        out_bias=draw(hidden),
        mlp_norm=torch.ones(hidden, device="cuda"),
        router=draw(experts, hidden),
        router_bias=draw(experts, std=0.1),
        experts=pack_experts(
            *stored(experts, 2 * inner, hidden), draw(experts, 2 * inner),
            *stored(experts, hidden, inner), draw(experts, hidden),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> GpuWeights:
    torch.manual_seed(0)
    layers = tuple(layer(CONFIG) for _ in range(CONFIG.num_layers))
    hidden, vocab = CONFIG.hidden_size, CONFIG.vocab_size
    return GpuWeights(
        draw(vocab, hidden, std=1.0), layers, torch.ones(hidden, device="cuda"), draw(vocab, hidden)
    )


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory is NaN: what a kernel leaves unwritten is seen wherever it is read."""
    empty = torch.empty

    def filled(*shape: Any, **options: Any) -> torch.Tensor:
        made = empty(*shape, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", filled)


def beside_twins() -> GpuOperations:
    """TRITON, with each result checked against the twin's on copies of the same inputs."""

    def checked(name: str) -> Callable[..., Any]:
        kernel, twin = getattr(TRITON, name), getattr(TWINS, name)

        def run(*arguments: Any, **options: Any) -> Any:
            copies = [a.clone() if isinstance(a, torch.Tensor) and a.ndim == 2 else a for a in arguments]
            theirs = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
            got, want = kernel(*arguments, **options), twin(*copies, **theirs)
            if name == "down":  # parts may be more, but sum to the same
                compare(name, got.float().sum(1), want.float().sum(1))
            else:
                compare(name, got, want)
            return got

        return run

    return replace(TRITON, route=checked_route, **{name: checked(name) for name in CHECKED})


def checked_route(
    x: torch.Tensor, router: torch.Tensor, bias: torch.Tensor, top_k: int, *rest: Any, **options: Any
) -> Any:
    """Every pair is in the list of its expert, once; no chosen logit is far below one not chosen."""
    got = TRITON.route(x, router, bias, top_k, *rest, **options)
    tokens, experts = len(x), len(router)
    shape = f"route of {tokens} tokens"
    logits = got.normed.float() @ router.float().T + bias.float()
    assert torch.isfinite(logits).all(), f"{shape}: normed is not finite"
    assert ((got.chosen >= 0) & (got.chosen < experts)).all(), f"{shape}: chosen experts that are none"
    worst = logits.gather(1, got.chosen.long()).amin(1)
    assert (worst >= logits.topk(top_k).values[:, -1] - 1e-2).all(), f"{shape}: not the best experts"
    assert torch.allclose(got.shares.sum(1), torch.ones(tokens, device=x.device), atol=1e-4), (
        f"{shape}: shares"
    )
    pairs = got.chosen.flatten()
    for expert, count in enumerate(got.counts.tolist()):
        listed, meant = got.lists[expert, :count].sort().values.long(), torch.where(pairs == expert)[0]
        assert torch.equal(listed, meant), f"{shape}: expert {expert} lists {count} pairs, meant {len(meant)}"
    return got


def compare(name: str, got: torch.Tensor, want: torch.Tensor) -> None:
    torch.cuda.synchronize()
    got, want = got.float(), want.float()
    assert torch.isfinite(got).all(), (
        f"{name} {tuple(got.shape)}: {(~torch.isfinite(got)).sum()} are not finite"
    )
    error = ((got - want).square().mean() / want.square().mean()).sqrt()
    assert error < LIMIT, f"{name} {tuple(got.shape)}: relative RMS {error:.2e}"


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("length", "chunk"),
    [(129, 8192), (4097, 8192), (8192, 8192), (12_000, 4096), (20_000, 8192), (16_384, 16_384)],
)
def test_every_kernel_of_a_long_prompt(weights: GpuWeights, length: int, chunk: int) -> None:
    assert set(CHECKED) <= {field.name for field in fields(GpuOperations)}
    tokens = torch.randint(
        0, CONFIG.vocab_size, (length,), generator=torch.Generator().manual_seed(length)
    ).tolist()
    rows = GpuRows(weights, CONFIG, 1, length, ops=beside_twins())
    rows.write(0, tokens)
    assert torch.isfinite(rows.prefill(0, 0, length, chunk)).all()


@pytest.mark.parametrize(("length", "chunk"), [(4097, 8192), (20_000, 8192)])
def test_nothing_depends_on_waiting_in_between(weights: GpuWeights, length: int, chunk: int) -> None:
    """The same logits whether kernels overlap, as they do, or each ends before the next begins."""
    tokens = torch.randint(
        0, CONFIG.vocab_size, (length,), generator=torch.Generator().manual_seed(1)
    ).tolist()
    logits = []
    for ops in (TRITON, beside_twins()):
        rows = GpuRows(weights, CONFIG, 1, length, ops=ops)
        rows.write(0, tokens)
        logits.append(rows.prefill(0, 0, length, chunk))
    assert torch.isfinite(logits[0]).all()
    assert (logits[0] - logits[1]).norm() <= 1e-2 * logits[1].norm()


@pytest.mark.parametrize("ops", [TRITON, deterministic(TRITON)], ids=["fast", "deterministic"])
@pytest.mark.parametrize("size", [32, 256, 640, 1280])
@torch.inference_mode()
def test_replayed_pieces_give_what_the_whole_pass_gives(
    weights: GpuWeights, ops: GpuOperations, size: int
) -> None:
    """Every bit, for two rows that decode beside a prompt: first as it is captured, then replayed with other
    tokens."""
    rows, device = GpuRows(weights, CONFIG, 4, 2 * size, ops=ops), torch.device("cuda")
    model, inputs = rows.model, StepInputs(size, 4, device)
    for pool in model.kv.pools:
        pool.normal_()
    pieces = PieceGraphs.allocate(model, inputs, LastingMemory(device), (size,))
    for seed in range(3):
        model.tokens.copy_(torch.randint(0, CONFIG.vocab_size, model.tokens.shape, device=device))
        decodes = [RowWork(row, 10 + seed, 1, True) for row in (1, 2)]
        batch = gather([*decodes, RowWork(0, 7 * seed, size - 2, True)])
        slot = inputs.acquire()
        place = pack(slot.ints, batch, RowParams(4), size)
        inputs.send(slot, place.end)
        step = inputs.step(place, batch)
        want = forward(model, step)
        got = pieces.forward(step)
        pieces.capture_due()
        assert torch.isfinite(want).all()
        assert torch.equal(got, want), f"round {seed}"
