"""Reading into memory that the caller brings, and many threads that do so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.reader import Checkpoint
from mosso.checkpoint.staging import Job, Part, stage
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError, UsageError


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stored_bytes(checkpoint: Checkpoint, name: str) -> bytes:
    return checkpoint.read(name).contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_the_bytes_are_those_that_read_maps(
    written: Path, small: ModelConfig, tmp_path: Path, write_original: Callable[..., None]
) -> None:
    """Whole tensors and parts of them, in both layouts: there queries, keys and values are one tensor."""
    with open_checkpoint(written) as checkpoint:
        tensors = {name: checkpoint.read(name).clone() for name in checkpoint.names}
    write_original(tmp_path / "original", tensors, small, shards=2)
    for folder in (written, tmp_path / "original"):
        with open_checkpoint(folder) as checkpoint:
            for name in checkpoint.names:
                wanted, info = stored_bytes(checkpoint, name), checkpoint.info(name)
                assert info.file.read_bytes()[info.offset :][: info.nbytes] == wanted
                for start, count in ((0, info.nbytes), (info.nbytes // 3, info.nbytes // 2), (5, 0)):
                    target = bytearray(count)
                    checkpoint.read_into(name, memoryview(target), start)
                    assert bytes(target) == wanted[start : start + count], name


def test_a_closed_checkpoint_reads_nothing(written: Path) -> None:
    checkpoint = open_checkpoint(written)
    checkpoint.close()
    with pytest.raises(UsageError, match="closed"):
        checkpoint.read_into("model.norm.weight", memoryview(bytearray(4)))


@pytest.mark.parametrize("threads", [1, 5])
def test_every_job_gets_its_own_bytes(written: Path, device: torch.device, threads: int) -> None:
    """Two tensors of different lengths a job, so that parts do not begin where the ones before ended."""
    got: dict[str, bytes] = {}

    def place(first: str, second: str) -> Callable[..., None]:
        def keep(*stored: torch.Tensor) -> None:
            assert all(tensor.device.type == device.type for tensor in stored)
            for name, tensor in zip((first, second), stored, strict=True):
                got[name] = tensor.cpu().numpy().tobytes()

        return keep

    with open_checkpoint(written) as checkpoint:
        names = checkpoint.names[: len(checkpoint.names) // 2 * 2]
        jobs = [
            Job(tuple(Part(name, 0, checkpoint.info(name).nbytes) for name in pair), place(*pair))
            for pair in zip(names[::2], names[1::2], strict=True)
        ]
        stage(checkpoint, jobs, device, threads)
        assert got == {name: stored_bytes(checkpoint, name) for name in names}


def test_no_two_jobs_place_at_once(written: Path, device: torch.device) -> None:
    busy = threading.Lock()

    def place(_: torch.Tensor) -> None:
        assert busy.acquire(blocking=False)
        threading.Event().wait(0.002)
        busy.release()

    with open_checkpoint(written) as checkpoint:
        stage(checkpoint, [Job((Part("lm_head.weight", 0, 64),), place)] * 20, device, threads=5)


def test_the_first_error_ends_the_work(written: Path, device: torch.device) -> None:
    placed: list[torch.Tensor] = []

    def fail(_: torch.Tensor) -> None:
        raise CheckpointError("no")

    with open_checkpoint(written) as checkpoint:
        part = Part("model.norm.weight", 0, 16)
        jobs = [Job((part,), fail), *(Job((part,), placed.append) for _ in range(50))]
        with pytest.raises(CheckpointError, match="no"):
            stage(checkpoint, jobs, device, threads=1)
        assert not placed
        stage(checkpoint, jobs[1:], device, threads=3)
        stage(checkpoint, [], device)
    assert len(placed) == 50
