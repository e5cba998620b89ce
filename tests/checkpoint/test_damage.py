"""Every kind of damage gives one clear CheckpointError that names file and tensor, before data is read."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.layout import INDEX_FILE
from mosso.checkpoint.random_weights import write_random
from mosso.checkpoint.safetensors_file import read_header
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError

NAME = "model.layers.1.self_attn.k_proj.weight"


def shard_of(folder: Path, name: str = NAME) -> Path:
    with open_checkpoint(folder) as checkpoint:
        return checkpoint.info(name).file


def change_shard(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def change_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    change(index)
    (folder / INDEX_FILE).write_text(json.dumps(index))


def refusal(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert "\n" not in caught.value.message
    return caught.value


def expect(folder: Path, words: str, file: Path, tensor: str | None = NAME) -> None:
    error = refusal(folder)
    assert words in error.message
    assert error.file == str(file)
    assert error.message.startswith(str(file))
    if tensor is not None:
        assert error.tensor == tensor
        assert tensor in error.message


def test_a_truncated_file_names_its_first_cut_tensor(folder: Path) -> None:
    file = shard_of(folder)
    last = max(read_header(file).items(), key=lambda item: item[1].offset)[0]
    file.write_bytes(file.read_bytes()[:-1])
    expect(folder, "is truncated", file, last)


def test_a_file_cut_within_its_header(folder: Path) -> None:
    file = shard_of(folder)
    file.write_bytes(file.read_bytes()[:100])
    expect(folder, "its header alone needs", file, None)


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_too_short_for_anything(folder: Path, size: int) -> None:
    file = shard_of(folder)
    file.write_bytes(bytes(size))
    expect(folder, "too short", file, None)


def test_bytes_after_the_last_tensor(folder: Path) -> None:
    file = shard_of(folder)
    file.write_bytes(file.read_bytes() + b"x")
    expect(folder, "1 bytes after its last tensor", file, None)


def test_an_absurd_header_length(folder: Path) -> None:
    file = shard_of(folder)
    file.write_bytes(struct.pack("<Q", 1 << 62) + file.read_bytes()[8:])
    expect(folder, f"a header of {1 << 62} bytes", file, None)


@pytest.mark.parametrize("header", [b"garbage!", b"[1, 2]  ", b"\xff" * 8, b'{"a":0,"a":0}'])
def test_a_garbage_header(folder: Path, header: bytes) -> None:
    file = shard_of(folder)
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    expect(folder, "has a header that is not", file, None)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (7, "is not an object"),
        ({"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}, "unknown dtype F4"),
        ({"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}, "the shape [-1]"),
        ({"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}, "the shape [True]"),
        ({"dtype": "U8", "shape": [1] * 9, "data_offsets": [0, 1]}, "the shape"),
        ({"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}, "data_offsets"),
        ({"dtype": "U8", "shape": [1], "data_offsets": [0]}, "data_offsets"),
        ({"dtype": "BF16", "shape": [3], "data_offsets": [0, 4]}, "gives 4 bytes to BF16"),
        ({"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}, "leave a gap"),
    ],
)
def test_a_wrong_header_entry(tmp_path: Path, entry: Any, words: str) -> None:
    header = json.dumps({NAME: entry}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2))
    with pytest.raises(CheckpointError) as caught:
        read_header(file)
    assert words in caught.value.message
    assert (caught.value.file, caught.value.tensor) == (str(file), NAME)


def test_overlapping_tensors(tmp_path: Path) -> None:
    entry = {"dtype": "U8", "shape": [2]}
    header = json.dumps(
        {"a": entry | {"data_offsets": [0, 2]}, "b": entry | {"data_offsets": [1, 3]}}
    ).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(3))
    with pytest.raises(CheckpointError, match=r"x\.safetensors, tensor b: the header's tensors overlap"):
        read_header(file)


def test_a_missing_shard(folder: Path) -> None:
    file = shard_of(folder)
    file.unlink()
    error = refusal(folder)
    assert ": the shard is missing" in error.message
    assert error.file == str(file)
    assert error.tensor is not None


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/passwd", "", "\0", "\ud800", "x" * 5000, None, 3]
)
def test_an_index_that_names_no_file(folder: Path, shard: Any) -> None:
    change_index(folder, lambda index: index["weight_map"].update({NAME: shard}))
    assert refusal(folder).message.encode("utf-8")


def test_an_index_never_leads_out_of_its_folder(folder: Path) -> None:
    """Even where the file exists and is right."""
    file = shard_of(folder)
    file.rename(folder.parent / file.name)
    text = (folder / INDEX_FILE).read_text().replace(file.name, f"../{file.name}")
    (folder / INDEX_FILE).write_text(text)
    assert "which is no file name" in refusal(folder).message


def test_an_index_without_a_map(folder: Path) -> None:
    change_index(folder, lambda index: index.pop("weight_map"))
    expect(folder, "no weight_map", folder / INDEX_FILE, None)
    (folder / INDEX_FILE).write_text("{")
    expect(folder, "is not JSON", folder / INDEX_FILE, None)


def test_a_tensor_missing_from_the_index(folder: Path) -> None:
    change_index(folder, lambda index: index["weight_map"].pop(NAME))
    expect(folder, f"tensor {NAME}: is missing", folder)


def test_a_tensor_missing_from_its_shard(folder: Path) -> None:
    file = shard_of(folder)
    change_shard(file, lambda tensors: tensors.pop(NAME))
    expect(folder, "is not there, though the index says so", file)


def test_a_wrong_shape(folder: Path) -> None:
    file = shard_of(folder)
    change_shard(file, lambda tensors: tensors.update({NAME: tensors[NAME].T.contiguous()}))
    expect(folder, "has the shape [64, 32]; config.json asks for [32, 64]", file)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float64, torch.uint8])
def test_a_wrong_dtype(folder: Path, dtype: torch.dtype) -> None:
    file = shard_of(folder)
    change_shard(file, lambda tensors: tensors.update({NAME: tensors[NAME].to(dtype)}))
    expect(folder, "not BF16 or F16 or F32", file)


def test_packed_experts_of_another_type(folder: Path) -> None:
    name = "model.layers.0.mlp.experts.down_proj_scales"
    file = shard_of(folder, name)
    change_shard(file, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    expect(folder, "not U8", file, name)


def test_a_tensor_that_nobody_asked_for(folder: Path) -> None:
    """A config.json with fewer layers than the files must not run a part of the model."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "layer_types": config["layer_types"][:1]}
    (folder / "config.json").write_text(json.dumps(config))
    error = refusal(folder)
    assert ": is not a tensor that config.json asks for" in error.message
    assert error.tensor is not None
    assert error.tensor.startswith("model.layers.1.")


def test_another_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    expect(folder, "mosso runs gpt_oss only", folder / "config.json", None)


def test_no_weights(folder: Path) -> None:
    (folder / INDEX_FILE).unlink()
    expect(folder, "has neither", folder, None)


def test_a_file_that_shrinks_after_it_was_opened(folder: Path) -> None:
    with open_checkpoint(folder) as checkpoint:
        file = checkpoint.info(NAME).file
        file.write_bytes(b"")
        with pytest.raises(CheckpointError, match=NAME):
            checkpoint.read(NAME)


def test_a_file_that_vanishes_after_it_was_opened(folder: Path) -> None:
    with open_checkpoint(folder) as checkpoint:
        checkpoint.info(NAME).file.unlink()
        with pytest.raises(CheckpointError, match=f"{NAME}: cannot be read: .*No such file"):
            checkpoint.read(NAME)


@pytest.fixture
def original(folder: Path, small: ModelConfig, tmp_path: Path, write_original: Callable[..., None]) -> Path:
    with open_checkpoint(folder) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.names}
    write_original(tmp_path / "original", tensors, small, shards=2)
    return tmp_path / "original"


def test_original_missing_shard(original: Path) -> None:
    first, second = sorted(original.glob("*.safetensors"))
    second.unlink()
    expect(original, "one of 2 shards, but only 1", first, None)
    first.unlink()
    expect(original, "holds no *.safetensors", original, None)


def test_original_missing_and_wrong_tensors_have_their_own_names(original: Path) -> None:
    name = "block.1.attn.qkv.bias"
    file = next(file for file in original.glob("*.safetensors") if name in read_header(file))
    change_shard(file, lambda tensors: tensors.update({name: tensors[name][:-1].clone()}))
    expect(original, "has the shape [127]; config.json asks for [128]", file, name)
    change_shard(file, lambda tensors: tensors.pop(name))
    expect(original, f"tensor {name}: is missing", original, name)


def test_original_tensor_in_two_files(original: Path) -> None:
    one, two = sorted(original.glob("*.safetensors"))
    shutil.copy(one, original / "zzz.safetensors")
    assert f"repeats a tensor of {one.name}" in refusal(original).message
    assert two.exists()


@pytest.fixture(scope="module")
def single(
    tmp_path_factory: pytest.TempPathFactory, small: ModelConfig
) -> tuple[Path, bytes, dict[str, Any]]:
    """A checkpoint of one file, with that file's data and parsed header."""
    folder = tmp_path_factory.mktemp("single")
    write_random(folder, small, device="cpu")
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return folder, data[8 + length :], json.loads(data[8 : 8 + length])


def opens_or_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError as error:
        refused = error.message
        assert 0 < len(refused.encode("utf-8")) < 500
        return
    with checkpoint:
        for name in checkpoint.names:
            assert tuple(checkpoint.read(name).shape) == checkpoint.info(name).shape


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(edits=st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=3)), min_size=1, max_size=4))
def test_mutated_bytes_open_or_are_refused(
    single: tuple[Path, bytes, dict[str, Any]], edits: list[tuple[int, bytes]]
) -> None:
    """Bytes of the length field and the header are overwritten, removed and inserted."""
    folder, data, header = single
    text = json.dumps(header).encode()
    content = bytearray(struct.pack("<Q", len(text)) + text + data)
    for at, piece in edits:
        content[at : at + 2] = piece
    opens_or_is_refused(folder, bytes(content))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_mutated_entries_open_or_are_refused(
    single: tuple[Path, bytes, dict[str, Any]], data: st.DataObject
) -> None:
    """Well-formed JSON that says wrong things: entries changed, swapped, renamed, dropped."""
    folder, payload, header = single
    header = json.loads(json.dumps(header))
    names = sorted(set(header) - {"__metadata__"})
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(names))
        action = data.draw(st.sampled_from(["junk", "field", "swap", "rename", "drop"]))
        if action == "junk":
            header[name] = data.draw(JUNK)
        elif action == "field" and isinstance(header.get(name), dict):
            key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
            header[name][key] = data.draw(JUNK | st.sampled_from(["F32", "U8", [], [0, 0], [1 << 62]]))
        elif action == "swap":
            other = data.draw(st.sampled_from(names))
            header[name], header[other] = header.get(other), header.get(name)
        elif action == "rename" and name in header:
            header[data.draw(st.text(max_size=8))] = header.pop(name)
        else:
            header.pop(name, None)
    text = json.dumps(header).encode()
    opens_or_is_refused(folder, struct.pack("<Q", len(text)) + text + payload)
