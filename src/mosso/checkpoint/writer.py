"""Named tensors → a checkpoint folder in the Hugging Face layout, one shard in memory at a time.

What makes a folder a checkpoint, `model.safetensors.index.json` or a lone `model.safetensors`, appears last
and by a rename. A write that stops earlier leaves a folder that open_checkpoint refuses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from mosso.checkpoint.config import (
    ExpertsFormat,
    GenerationDefaults,
    config_json,
    generation_json,
    parse_config,
)
from mosso.checkpoint.fields import Fields
from mosso.checkpoint.layout import INDEX_FILE, SINGLE_FILE, check_free, weights_in
from mosso.checkpoint.safetensors_file import encode_header
from mosso.checkpoint.schema import TensorSpec, expected_tensors
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError, UsageError

SHARD_BYTES = 2 << 30
_PART = ".part"
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.uint8: "U8"}
_FULL_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def write_checkpoint(
    folder: str | Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    experts_format: ExpertsFormat = "mxfp4",
    generation: GenerationDefaults | None = None,
    files: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write every tensor of the schema, in any order, from any device, with config.json and its companions.

    `files` are further text files by name, such as tokenizer.json. A shard is written when the next tensor
    would exceed `shard_bytes`. Raises CheckpointError for a tensor that the schema does not have or that is
    missing and for a config that makes no sense, UsageError when the folder holds weights already (unless
    `overwrite`) or cannot be written.
    """
    folder = Path(folder)
    specs = expected_tensors(config, experts_format)
    generation = generation or GenerationDefaults()
    parse_config(Fields(config_json(config), folder / "config.json"))  # a config that could not be read back
    try:
        _prepare(folder, overwrite)
        shards = _Shards(folder, shard_bytes)
        for name, tensor in tensors:
            _check(name, tensor, specs.pop(name, None), folder)
            shards.add(name, tensor)
        if specs:
            raise CheckpointError("was not given", file=str(folder), tensor=next(iter(specs)))
        dtype = _FULL_NAMES[shards.dtype]
        values = config_json(config, experts_format=experts_format, dtype=dtype, generation=generation)
        texts = {"config.json": _json(values), "generation_config.json": _json(generation_json(generation))}
        for file, text in {**texts, **(files or {})}.items():
            (folder / file).write_text(text, encoding="utf-8")
        shards.finish()
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or folder}: {error.strerror}") from error


class _Shards:
    """Collects tensors, writes a shard when one is full, and names the shards when their number is known."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.dtype = "BF16"  # of the dense tensors; the last one's where they differ
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = 0
        self._total_bytes = 0
        self._written: list[list[str]] = []  # names by shard

    def add(self, name: str, tensor: torch.Tensor) -> None:
        if self._pending and self._pending_bytes + tensor.nbytes > self.shard_bytes:
            self._flush()
        self._pending[name] = tensor.detach().cpu().contiguous()
        self._pending_bytes += tensor.nbytes
        self._total_bytes += tensor.nbytes
        if tensor.dtype != torch.uint8:
            self.dtype = _DTYPES[tensor.dtype]

    def finish(self) -> None:
        """Write what is pending, give the shards their names and, last of all, write the index."""
        self._flush()
        count = len(self._written)
        if count == 1:
            os.replace(self._part(0), self.folder / SINGLE_FILE)
            return
        index: dict[str, str] = {}
        for number, names in enumerate(self._written):
            file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            os.replace(self._part(number), self.folder / file)
            index |= dict.fromkeys(names, file)
        part = self.folder / (INDEX_FILE + _PART)
        part.write_text(_json({"metadata": {"total_size": self._total_bytes}, "weight_map": index}))
        os.replace(part, self.folder / INDEX_FILE)

    def _flush(self) -> None:
        # The widest types first: then every tensor is aligned to its own elements.
        tensors = sorted(self._pending.items(), key=lambda item: -item[1].element_size())
        with self._part(len(self._written)).open("wb") as stream:
            stream.write(encode_header((name, _DTYPES[t.dtype], t.shape) for name, t in tensors))
            for _, tensor in tensors:
                tensor.view(-1).view(torch.uint8).numpy().tofile(stream)
        self._written.append([name for name, _ in tensors])
        self._pending.clear()
        self._pending_bytes = 0

    def _part(self, number: int) -> Path:
        return self.folder / f"model-{number + 1:05d}.safetensors{_PART}"


def _prepare(folder: Path, overwrite: bool) -> None:
    """Make the folder; take away what an interrupted write left and, when asked, a former checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    if not overwrite:
        check_free(folder)
    for file in [*weights_in(folder), *folder.glob(f"*{_PART}")]:  # the index first
        file.unlink()


def _check(name: str, tensor: torch.Tensor, spec: TensorSpec | None, folder: Path) -> None:
    if spec is None:
        raise CheckpointError("is unknown or was given twice", file=str(folder), tensor=name)
    dtype = _DTYPES.get(tensor.dtype, str(tensor.dtype))
    if tuple(tensor.shape) != spec.shape or dtype not in spec.dtypes:
        wanted = f"{' or '.join(spec.dtypes)} {list(spec.shape)}"
        raise CheckpointError(f"is {dtype} {list(tensor.shape)}, not {wanted}", file=str(folder), tensor=name)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
