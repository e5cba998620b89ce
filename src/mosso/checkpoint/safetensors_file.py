"""The safetensors container: 8 bytes of header length, a JSON header, the tensors' bytes.

Format: huggingface.co/docs/safetensors. Read here rather than by its library because a damaged file must be
named precisely (file and tensor), before any of its data is touched.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mosso.checkpoint.fields import shown
from mosso.core.errors import CheckpointError

MAX_HEADER_BYTES = 16 << 20  # the published 120b needs 0.1 MB
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `offset` counts from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name; only its header is read.

    Raises CheckpointError for a file that is not safetensors, is truncated, or has bytes beyond its tensors.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            header, start = _read_json(stream.read(8), stream.read, size, file)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", file=str(file)) from error
    tensors = {
        name: _entry(name, value, file, start) for name, value in header.items() if name != "__metadata__"
    }
    _check_extent(tensors, start, size, file)
    return tensors


def _read_json(prefix: bytes, read: Any, size: int, file: Path) -> tuple[dict[str, Any], int]:
    if len(prefix) < 8:
        raise CheckpointError("is too short for a safetensors file", file=str(file))
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"is not a safetensors file: its first 8 bytes claim a header of {length} bytes", file=str(file)
        )
    if 8 + length > size:
        raise CheckpointError(
            f"is truncated: {size} bytes, its header alone needs {8 + length}", file=str(file)
        )
    try:
        header = json.loads(read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"has a header that is not JSON: {shown(str(error))}", file=str(file)
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError("has a header that is not a JSON object", file=str(file))
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return values


def _entry(name: str, value: Any, file: Path, start: int) -> StoredTensor:
    def fail(problem: str) -> CheckpointError:
        return CheckpointError(f"its header entry {problem}", file=str(file), tensor=shown(name))

    if not isinstance(value, dict):
        raise fail("is not an object")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise fail(f"has the unknown dtype {shown(dtype)}")
    if not _are_counts(shape):
        raise fail(f"has the shape {shown(shape)}, which is none")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise fail(f"has the data_offsets {shown(offsets)}, which are none")
    nbytes = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise fail(f"gives {offsets[1] - offsets[0]} bytes to {dtype} {shown(shape)}, which has {nbytes}")
    return StoredTensor(file, dtype, tuple(shape), start + offsets[0], nbytes)


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    )


def _check_extent(tensors: dict[str, StoredTensor], start: int, size: int, file: Path) -> None:
    """The tensors must cover the data exactly, without overlap, as the format demands."""
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != end:
            raise CheckpointError(
                f"the header's tensors {'overlap' if tensor.offset < end else 'leave a gap'}",
                file=str(file),
                tensor=shown(name),
            )
        end = tensor.offset + tensor.nbytes
        if end > size:
            raise CheckpointError(
                f"the file is truncated: {size} bytes, the tensor ends at {end}",
                file=str(file),
                tensor=shown(name),
            )
    if end < size:
        raise CheckpointError(f"has {size - end} bytes after its last tensor", file=str(file))


def encode_header(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> bytes:
    """Length and header of a file of (name, dtype, shape) in this order; its data starts 8-byte aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return struct.pack("<Q", len(data)) + data
