"""From a folder to its stored tensors under canonical names: headers only, every complaint made here.

huggingface   config.json, and model.safetensors.index.json with its shards or one model.safetensors
original      config.json and *.safetensors in a folder of their own, usually `original/` of a repository
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mosso.checkpoint.config import ExpertsFormat, Layout, config_layout, parse_config
from mosso.checkpoint.fields import read_object, shown
from mosso.checkpoint.safetensors_file import ITEM_BYTES, StoredTensor, read_header
from mosso.checkpoint.schema import TensorSpec, expected_tensors, experts_format_of, original_names
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError, UsageError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_SHARD_OF = re.compile(r"-(\d{1,9})-of-(\d{1,9})\.safetensors$")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint folder holds, validated against the schema."""

    folder: Path  # where config.json and the weights are
    layout: Layout
    config: ModelConfig
    experts_format: ExpertsFormat
    tensors: Mapping[str, StoredTensor]  # canonical name → bytes


def scan_folder(folder: Path) -> Contents:
    """Find, read and validate the headers of a checkpoint. UsageError when there is no folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    folder = _weights_folder(folder)
    fields = read_object(folder / "config.json")
    layout, config = config_layout(fields), parse_config(fields)
    if layout == "original":
        stored = _originals(config, _without_index(folder), folder)
    else:
        stored = _with_index(folder)
    experts_format = experts_format_of(stored)
    _check(stored, expected_tensors(config, experts_format), folder)
    return Contents(folder, layout, config, experts_format, stored)


def weights_in(folder: Path) -> list[Path]:
    """Files that make a folder a checkpoint; the index first."""
    return [file for file in (folder / INDEX_FILE, *folder.glob("*.safetensors")) if file.exists()]


def check_free(folder: Path) -> None:
    """UsageError where the folder holds weights."""
    if present := weights_in(folder):
        raise UsageError(
            f"{folder} holds weights already ({present[0].name}); choose another folder, or --overwrite"
        )


def _weights_folder(folder: Path) -> Path:
    """The folder itself, or its `original/` when only that has weights."""
    inner = folder / "original"
    if any((folder / name).is_file() for name in (INDEX_FILE, SINGLE_FILE)):
        return folder
    if (inner / "config.json").is_file() and any(inner.glob("*.safetensors")):
        return inner
    if (folder / "config.json").is_file():
        return folder
    raise CheckpointError("holds no checkpoint, as it has no config.json", file=str(folder))


def _with_index(folder: Path) -> dict[str, StoredTensor]:
    index = folder / INDEX_FILE
    if not index.is_file():
        if (folder / SINGLE_FILE).is_file():
            return read_header(folder / SINGLE_FILE)
        raise CheckpointError(f"has neither {INDEX_FILE} nor {SINGLE_FILE}", file=str(folder))
    section = read_object(index).section("weight_map")
    if section is None:
        raise CheckpointError("has no weight_map", file=str(index))
    headers: dict[str, dict[str, StoredTensor]] = {}
    tensors: dict[str, StoredTensor] = {}
    for name, shard in section.values.items():
        if not isinstance(shard, str) or not shard or Path(shard).name != shard:
            raise CheckpointError(f"names the shard {shown(shard)}, which is no file name", file=str(index))
        if shard not in headers:
            headers[shard] = _shard_header(folder, shard, name)
        if name not in headers[shard]:
            raise CheckpointError("is not there, though the index says so", file=str(folder / shard),
                                  tensor=shown(name))  # fmt: skip
        tensors[name] = headers[shard][name]
    return tensors


def _shard_header(folder: Path, shard: str, tensor: str) -> dict[str, StoredTensor]:
    try:
        missing = not (folder / shard).is_file()
    except (OSError, ValueError):  # a name that no file can have
        missing = True
    if missing:
        raise CheckpointError("the shard is missing", file=str(folder / shown(shard)), tensor=shown(tensor))
    return read_header(folder / shard)


def _without_index(folder: Path) -> dict[str, StoredTensor]:
    """Every *.safetensors of the folder together: the original/ layout has no index."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError("holds no *.safetensors", file=str(folder))
    _check_all_shards(files)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise CheckpointError(
                    f"repeats a tensor of {tensors[name].file.name}", file=str(file), tensor=shown(name)
                )
            tensors[name] = tensor
    return tensors


def _check_all_shards(files: list[Path]) -> None:
    """`x-00002-of-00003.safetensors` says how many there must be."""
    numbered = [(file, match) for file in files if (match := _SHARD_OF.search(file.name))]
    for file, match in numbered:
        present = {int(other[1]) for _, other in numbered}
        wanted = int(match[2])
        if len(present) < wanted:
            raise CheckpointError(
                f"is one of {wanted} shards, but only {len(present)} are here", file=str(file)
            )


def _originals(config: ModelConfig, stored: dict[str, StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    """Canonical names for the tensors of the original layout; a fused one is cut into row ranges."""
    names, specs = original_names(config), expected_tensors(config, "mxfp4")
    fused = {name: _stack([specs[part] for part in parts]) for name, parts in names.items()}
    _check(stored, fused, folder)
    tensors: dict[str, StoredTensor] = {}
    for name, parts in names.items():
        offset = stored[name].offset
        for part in parts:
            shape = specs[part].shape
            nbytes = math.prod(shape) * ITEM_BYTES[stored[name].dtype]
            tensors[part] = replace(stored[name], shape=shape, offset=offset, nbytes=nbytes)
            offset += nbytes
    return tensors


def _stack(parts: list[TensorSpec]) -> TensorSpec:
    return replace(parts[0], shape=(sum(part.shape[0] for part in parts), *parts[0].shape[1:]))


def _check(stored: Mapping[str, StoredTensor], specs: Mapping[str, TensorSpec], folder: Path) -> None:
    """Every expected tensor with its shape and dtype, and no other."""
    for name, spec in specs.items():
        tensor = stored.get(name)
        if tensor is None:
            raise CheckpointError("is missing", file=str(folder), tensor=name)
        if tensor.shape != spec.shape:
            problem = f"has the shape {shown(list(tensor.shape))}; config.json asks for {list(spec.shape)}"
            raise CheckpointError(problem, file=str(tensor.file), tensor=name)
        if tensor.dtype not in spec.dtypes:
            problem = f"has the dtype {tensor.dtype}, not {' or '.join(spec.dtypes)}"
            raise CheckpointError(problem, file=str(tensor.file), tensor=name)
    for name in stored.keys() - specs.keys():
        raise CheckpointError(
            "is not a tensor that config.json asks for", file=str(stored[name].file), tensor=shown(name)
        )
