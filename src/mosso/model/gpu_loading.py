"""From a checkpoint's files straight to the GPU's layout.

Every tensor is allocated once, in its final shape; jobs fill it piece by piece (see checkpoint.staging):
matrices as they are stored, queries, keys and values into the rows of one, experts a few at a time, repacked
on the device. So the device never holds more than the weights and a few hundred MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch

from mosso.checkpoint.reader import TORCH_NAMES, Checkpoint, TensorInfo
from mosso.checkpoint.staging import JOB_BYTES, Job, Part, stage
from mosso.core.errors import CheckpointError, UsageError
from mosso.kernels.gpu.moe import GpuExperts
from mosso.kernels.gpu.mxfp4_layout import interleave_gate_up, pack, packed_shapes
from mosso.model.gpu_weights import GpuLayer, GpuWeights

Reorder = Callable[[torch.Tensor], torch.Tensor]

MIB = 1 << 20


def load_gpu_weights(
    checkpoint: Checkpoint,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
    host_embedding: bool = False,
    threads: int | None = None,
    job_bytes: int = JOB_BYTES,
) -> GpuWeights:
    """The model of `checkpoint` on `device`, which may be the CPU.

    dtype: of matrices and biases; norms and sinks are float32. host_embedding: the embedding stays in pinned
    memory of the host, where the device reads it. threads read `job_bytes` at a time, None: as many as are of
    use. Raises UsageError for experts that are not MXFP4 and for a device that is too small,
    CheckpointError for files that cannot be read.
    """
    if checkpoint.experts_format != "mxfp4":
        stored = f"{checkpoint.folder} stores them as {checkpoint.experts_format}"
        raise UsageError(f"the GPU engine reads MXFP4 experts; {stored}")
    loader = _Loader(checkpoint, device, dtype, host_embedding, job_bytes)
    try:
        weights = loader.weights()
        stage(checkpoint, loader.in_file_order(), device, threads)
    except torch.OutOfMemoryError as error:
        size = f"{checkpoint.nbytes / MIB:,.0f} MiB"
        raise UsageError(f"the weights take {size}, and {device} does not have that much free") from error
    finally:
        _return_unused(device)
    return weights


def _return_unused(device: torch.device) -> None:
    """Buffers that the allocators would keep for us: we will not ask for their like again."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        if hasattr(torch.accelerator, "empty_host_cache"):  # torch ≥ 2.12
            torch.accelerator.empty_host_cache()


def _as_stored(rows: torch.Tensor) -> torch.Tensor:
    return rows


class _Piece(NamedTuple):
    """A job and where its bytes begin."""

    file: str
    offset: int
    job: Job


@dataclass(frozen=True, slots=True)
class _Loader:
    """Allocates the tensors of one checkpoint and collects the jobs that will fill them."""

    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    host_embedding: bool
    job_bytes: int
    pieces: list[_Piece] = field(default_factory=list)

    def in_file_order(self) -> list[Job]:
        """So that a disk reads ahead."""
        return [piece.job for piece in sorted(self.pieces, key=lambda piece: piece[:2])]

    def weights(self) -> GpuWeights:
        layers = range(self.checkpoint.config.num_layers)
        return GpuWeights(
            embedding=self.embedding("model.embed_tokens.weight"),
            layers=tuple(self.layer(f"model.layers.{index}.") for index in layers),
            norm=self.tensor("model.norm.weight", torch.float32),
            head=self.tensor("lm_head.weight"),
        )

    def layer(self, prefix: str) -> GpuLayer:
        attention, router = prefix + "self_attn.", prefix + "mlp.router."
        return GpuLayer(
            attention_norm=self.tensor(prefix + "input_layernorm.weight", torch.float32),
            qkv=self.fused(*(f"{attention}{part}_proj.weight" for part in "qkv")),
            qkv_bias=self.fused(*(f"{attention}{part}_proj.bias" for part in "qkv")),
            sinks=self.tensor(attention + "sinks", torch.float32),
            out=self.tensor(attention + "o_proj.weight"),
            out_bias=self.tensor(attention + "o_proj.bias"),
            mlp_norm=self.tensor(prefix + "post_attention_layernorm.weight", torch.float32),
            router=self.tensor(router + "weight"),
            router_bias=self.tensor(router + "bias"),
            experts=self.experts(prefix + "mlp.experts."),
        )

    def embedding(self, name: str) -> torch.Tensor:
        if not self.host_embedding or self.device.type != "cuda":
            return self.tensor(name)
        target = torch.empty(self.checkpoint.info(name).shape, dtype=self.dtype, pin_memory=True)
        self.copy(name, target)
        return target

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        target = self.empty(*self.checkpoint.info(name).shape, dtype=dtype or self.dtype)
        self.copy(name, target)
        return target

    def fused(self, *names: str) -> torch.Tensor:
        """Tensors on top of each other, as one."""
        rows = [self.checkpoint.info(name).shape[0] for name in names]
        target = self.empty(sum(rows), *self.checkpoint.info(names[0]).shape[1:], dtype=self.dtype)
        for name, part in zip(names, target.split(rows), strict=True):
            self.copy(name, part)
        return target

    def experts(self, prefix: str) -> GpuExperts:
        gate_up, down = prefix + "gate_up_proj", prefix + "down_proj"
        gate_up_bias = self.empty(*self.checkpoint.info(gate_up + "_bias").shape, dtype=self.dtype)
        self.copy(gate_up + "_bias", gate_up_bias, interleave_gate_up)
        return GpuExperts(
            *self.packed(gate_up, interleave_gate_up), gate_up_bias,
            *self.packed(down, _as_stored), self.tensor(down + "_bias"),
        )  # fmt: skip

    def packed(self, stem: str, reorder: Reorder) -> tuple[torch.Tensor, torch.Tensor]:
        """Words and scales of all experts, their rows reordered."""
        blocks, scales = self.checkpoint.info(stem + "_blocks"), self.checkpoint.info(stem + "_scales")
        experts, rows, groups, half = blocks.shape
        shapes = packed_shapes(experts, rows, groups * half * 2)
        words_out, scales_out = (self.empty(*shape, dtype=torch.int16) for shape in shapes)

        def place(part: slice, *stored: torch.Tensor) -> None:
            try:
                words_out[part], scales_out[part] = pack(*(reorder(tensor) for tensor in stored))
            except CheckpointError as error:
                raise CheckpointError(error.message, file=str(scales.file), tensor=scales.name) from None

        self.cut((blocks, scales), place)
        return words_out, scales_out

    def copy(self, name: str, target: torch.Tensor, reorder: Reorder = _as_stored) -> None:
        """Fill `target`, of the tensor's shape and any dtype; `reorder` leaves the first axis alone."""

        def place(part: slice, stored: torch.Tensor) -> None:
            target[part].copy_(reorder(stored), non_blocking=True)

        self.cut((self.checkpoint.info(name),), place)

    def cut(self, infos: tuple[TensorInfo, ...], place: Callable[..., None]) -> None:
        """Jobs of so many elements of the first axis, which the tensors share, as make about `job_bytes`.

        place(slice of that axis, that part of each tensor): on the device, as stored.
        """
        count = infos[0].shape[0]
        at_once = max(1, self.job_bytes * count // sum(info.nbytes for info in infos))
        for first in range(0, count, at_once):
            part = slice(first, min(first + at_once, count))
            parts = tuple(_bytes_of(info, part) for info in infos)
            job = Job(parts, partial(_place, infos, part, place))
            self.pieces.append(_Piece(str(infos[0].file), infos[0].offset + parts[0].start, job))

    def empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)


def _place(
    infos: tuple[TensorInfo, ...], part: slice, place: Callable[..., None], *stored: torch.Tensor
) -> None:
    """Give the bytes of a part their dtype and shape, then place them."""
    tensors = (
        raw.view(getattr(torch, TORCH_NAMES[info.dtype])).view(-1, *info.shape[1:])
        for raw, info in zip(stored, infos, strict=True)
    )
    place(part, *tensors)


def _bytes_of(info: TensorInfo, part: slice) -> Part:
    each = info.nbytes // info.shape[0]
    return Part(info.name, part.start * each, (part.stop - part.start) * each)
