"""Loading into the GPU's layouts against the plain loading: the same numbers, however the pieces are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.random_weights import write_random
from mosso.checkpoint.writer import write_checkpoint
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError, UsageError
from mosso.kernels.experts import PackedExperts
from mosso.model.loading import load_weights

pytest.importorskip("triton", reason="Triton has no build for this system")

from mosso.kernels.gpu.moe import pack_experts
from mosso.model.gpu_loading import load_gpu_weights
from mosso.model.gpu_weights import GpuWeights

SMALL = ModelConfig(
    num_layers=3,
    num_experts=5,  # not a multiple of what a job takes
    experts_per_token=2,
    hidden_size=96,
    intermediate_size=160,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=331,
    window=8,
    max_context=4096,
)
EXPERT_JOB = 3 * 320 * 51  # bytes of three gate_up experts, not of four


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu_loading") / "small"
    write_random(folder, SMALL, device="cpu", shard_bytes=300_000)
    return folder


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def flat(value: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor within dataclasses and tuples, with its path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from flat(item, f"{name}.{index}")
    elif hasattr(value, "__dataclass_fields__"):
        for field in value.__dataclass_fields__:
            yield from flat(getattr(value, field), f"{name}.{field}")


def expected(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What the plain loading reads, its experts packed whole layers at a time."""
    with open_checkpoint(folder) as checkpoint:
        plain = load_weights(checkpoint, dtype=dtype)
    found = dict(flat(replace(plain, layers=())))
    for index, layer in enumerate(plain.layers):
        experts = layer.experts
        assert isinstance(experts, PackedExperts)
        packed = pack_experts(
            experts.gate_up_blocks, experts.gate_up_scales, experts.gate_up_bias,
            experts.down_blocks, experts.down_scales, experts.down_bias,
        )  # fmt: skip
        found |= dict(flat(replace(layer, experts=packed), f".layers.{index}"))
    return found


def check(weights: GpuWeights, folder: Path, dtype: torch.dtype) -> None:
    want = expected(folder, dtype)
    got = dict(flat(weights))
    assert got.keys() == want.keys()
    for name, tensor in got.items():
        assert tensor.is_contiguous(), name
        assert tensor.dtype == want[name].dtype, name
        assert torch.equal(tensor.cpu(), want[name]), name


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("job_bytes", [1, 1000, EXPERT_JOB, 1 << 25])
def test_equal_to_plain_loading(folder: Path, device: torch.device, threads: int, job_bytes: int) -> None:
    with open_checkpoint(folder) as checkpoint:
        weights = load_gpu_weights(checkpoint, device, threads=threads, job_bytes=job_bytes)
    assert (weights.device.type, weights.dtype) == (device.type, torch.bfloat16)
    check(weights, folder, torch.bfloat16)


def test_another_dtype(folder: Path, device: torch.device) -> None:
    with open_checkpoint(folder) as checkpoint:
        check(load_gpu_weights(checkpoint, device, dtype=torch.float32), folder, torch.float32)


def test_within_inference_mode(folder: Path, device: torch.device) -> None:
    with open_checkpoint(folder) as checkpoint, torch.inference_mode():
        check(load_gpu_weights(checkpoint, device), folder, torch.bfloat16)


def test_float32_matrices_become_bfloat16(folder: Path, device: torch.device, tmp_path: Path) -> None:
    with open_checkpoint(folder) as checkpoint:
        wide = (
            (name, tensor.float() if (tensor := checkpoint.read(name)).dtype == torch.bfloat16 else tensor)
            for name in checkpoint.names
        )
        write_checkpoint(tmp_path / "wide", SMALL, wide)
    with open_checkpoint(tmp_path / "wide") as checkpoint:
        assert checkpoint.info("lm_head.weight").dtype == "F32"
        check(load_gpu_weights(checkpoint, device), folder, torch.bfloat16)


def test_experts_that_are_no_mxfp4_are_refused(device: torch.device, tmp_path: Path) -> None:
    write_random(tmp_path / "upcast", SMALL, device="cpu", experts_format="bf16")
    with open_checkpoint(tmp_path / "upcast") as checkpoint, pytest.raises(UsageError, match="bf16"):
        load_gpu_weights(checkpoint, device)


def test_a_scale_that_the_layout_cannot_hold_is_named(device: torch.device, tmp_path: Path) -> None:
    write_random(tmp_path / "large", SMALL, device="cpu")
    name = "model.layers.1.mlp.experts.down_proj_scales"
    with open_checkpoint(tmp_path / "large") as checkpoint:
        info = checkpoint.info(name)
    with info.file.open("r+b") as file:
        file.seek(info.offset + info.nbytes - 1)
        file.write(b"\xc8")
    with (
        open_checkpoint(tmp_path / "large") as checkpoint,
        pytest.raises(CheckpointError, match=rf"{info.file.name}, tensor {name}: .*200"),
    ):
        load_gpu_weights(checkpoint, device)


def test_a_file_that_shrinks_is_named(device: torch.device, tmp_path: Path) -> None:
    write_random(tmp_path / "short", SMALL, device="cpu")
    with open_checkpoint(tmp_path / "short") as checkpoint:
        info = checkpoint.info("lm_head.weight")
        with info.file.open("r+b") as file:
            file.truncate(info.offset + info.nbytes - 7)
        with pytest.raises(CheckpointError, match=r"tensor lm_head\.weight: .*shrunk"):
            load_gpu_weights(checkpoint, device)
