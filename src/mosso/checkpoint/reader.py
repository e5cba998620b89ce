"""An open checkpoint: named tensors as stored, mapped from the disk when they are asked for.

    with open_checkpoint(folder) as checkpoint:
        for name in checkpoint.names:
            tensor = checkpoint.read(name)

Each tensor maps its own range of its file and owns that mapping: dropping the tensor gives the memory back,
closing the checkpoint leaves tensors valid. So a loader that streams never holds more than what it keeps.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mosso.checkpoint.config import (
    ExpertsFormat,
    GenerationDefaults,
    Layout,
    read_generation_defaults,
)
from mosso.checkpoint.layout import Contents, scan_folder
from mosso.checkpoint.safetensors_file import ITEM_BYTES, StoredTensor
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import torch

TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "U8": "uint8"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as stored; `dtype` in safetensors' names ("BF16", "U8", ...)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    nbytes: int
    offset: int  # within the file


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Validate a folder's headers and open it; no weight is read.

    Takes the Hugging Face layout, a repository whose only weights are in `original/`, or an `original/`
    folder itself. Raises CheckpointError (naming file and tensor) or UsageError (no such folder).
    """
    contents = scan_folder(Path(folder))
    return Checkpoint(contents, read_generation_defaults(_beside(contents.folder, "generation_config.json")))


class Checkpoint:
    """Tensors under Hugging Face's names whatever the layout. Owns open files until `close`."""

    def __init__(self, contents: Contents, generation: GenerationDefaults) -> None:
        self.folder: Path = contents.folder
        self.config: ModelConfig = contents.config
        self.layout: Layout = contents.layout
        self.experts_format: ExpertsFormat = contents.experts_format
        self.generation = generation
        self._tensors = contents.tensors
        self._files: dict[Path, int] = {}  # descriptors; closed with the object if nobody calls close
        self._opening = threading.Lock()
        self._close = weakref.finalize(self, _close_all, self._files)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    @property
    def tokenizer_file(self) -> Path | None:
        """tokenizer.json of the folder (or of the repository around `original/`), if there is one."""
        file = _beside(self.folder, "tokenizer.json") / "tokenizer.json"
        return file if file.is_file() else None

    def info(self, name: str) -> TensorInfo:
        """Raises CheckpointError for a name that the checkpoint does not have."""
        stored = self._stored(name)
        return TensorInfo(name, stored.shape, stored.dtype, stored.file, stored.nbytes, stored.offset)

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored, on the CPU, over a private mapping: writing to it never reaches the file.

        Zero-copy unless the file misaligns the tensor. The pages are read when they are touched.
        """
        import torch  # here, so that looking at a checkpoint does not wait for torch

        stored = self._stored(name)
        start = stored.offset - stored.offset % mmap.ALLOCATIONGRANULARITY
        skip = stored.offset - start
        try:
            mapping = mmap.mmap(
                self._open(stored.file), skip + stored.nbytes, access=mmap.ACCESS_COPY, offset=start
            )
        except (OSError, ValueError) as error:  # ValueError: the file has shrunk since it was opened
            raise CheckpointError(f"cannot be read: {error}", file=str(stored.file), tensor=name) from error
        data = torch.frombuffer(mapping, dtype=torch.uint8, count=stored.nbytes, offset=skip)
        if stored.offset % ITEM_BYTES[stored.dtype]:
            data = data.clone()
        return data.view(getattr(torch, TORCH_NAMES[stored.dtype])).view(stored.shape)

    def read_into(self, name: str, target: memoryview, start: int = 0) -> None:
        """Fill `target` (bytes) with the tensor's bytes from `start` on; many threads may do so at once.

        For those who bring their own memory, such as pages that a device reads. Linux, BSD and macOS only.
        """
        stored = self._stored(name)
        assert start >= 0
        assert start + target.nbytes <= stored.nbytes
        descriptor, at = self._open(stored.file), stored.offset + start
        while target:
            try:
                count = os.preadv(descriptor, [target], at)
            except OSError as error:
                raise CheckpointError(
                    f"cannot be read: {error.strerror}", file=str(stored.file), tensor=name
                ) from error
            if count == 0:
                raise CheckpointError(
                    "the file has shrunk since it was opened", file=str(stored.file), tensor=name
                )
            target, at = target[count:], at + count

    def close(self) -> None:
        """Close the files; tensors that were read stay valid. Harmless when repeated."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stored(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise CheckpointError("there is no such tensor", file=str(self.folder), tensor=name)
        return self._tensors[name]

    def _open(self, file: Path) -> int:
        if not self._close.alive:
            raise UsageError(f"the checkpoint {self.folder} is closed")
        with self._opening:
            if file not in self._files:
                self._files[file] = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return self._files[file]


def _close_all(files: dict[Path, int]) -> None:
    for descriptor in files.values():
        os.close(descriptor)
    files.clear()


def _beside(folder: Path, name: str) -> Path:
    """`folder`, or its parent when only that has `name` and the folder is a repository's `original/`."""
    inside = (folder / name).is_file() or folder.resolve().name != "original"
    return folder if inside else folder.resolve().parent
