"""Writing: shards, companions, interruptions, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GptOssForCausalLM

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.config import GenerationDefaults
from mosso.checkpoint.layout import INDEX_FILE
from mosso.checkpoint.random_weights import random_tensors
from mosso.checkpoint.schema import total_bytes
from mosso.checkpoint.writer import write_checkpoint
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError, UsageError

SHARD = 40_000


def test_shards_stay_under_their_limit_and_the_index_is_right(written: Path, small: ModelConfig) -> None:
    index = json.loads((written / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == total_bytes(small)
    files = sorted(written.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    assert set(index["weight_map"].values()) == {file.name for file in files}
    for file in files:
        tensors = load_file(file)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= max(
            SHARD, *(tensor.nbytes for tensor in tensors.values())
        )
    assert not list(written.glob("*.part"))


def test_one_shard_is_a_plain_file(tmp_path: Path, small: ModelConfig) -> None:
    write_checkpoint(tmp_path / "a" / "b", small, random_tensors(small))
    names = {file.name for file in (tmp_path / "a" / "b").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}


def test_any_order_and_non_contiguous_tensors(tmp_path: Path, small: ModelConfig) -> None:
    tensors = dict(random_tensors(small))
    name = "model.layers.0.self_attn.q_proj.weight"
    shuffled = {key: tensors[key] for key in sorted(tensors, reverse=True)}
    shuffled[name] = tensors[name].T.contiguous().T
    write_checkpoint(tmp_path, small, shuffled.items(), shard_bytes=SHARD)
    with open_checkpoint(tmp_path) as checkpoint:
        assert all(torch.equal(checkpoint.read(key), tensor) for key, tensor in tensors.items())


def test_companion_files(tmp_path: Path, small: ModelConfig) -> None:
    generation = GenerationDefaults((7, 9), 0.5, 0.9, 3)
    tensors = ((n, t if t.dtype == torch.uint8 else t.float()) for n, t in random_tensors(small))
    write_checkpoint(tmp_path, small, tensors, generation=generation, files={"tokenizer.json": "{é}"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.generation == generation
        assert checkpoint.tokenizer_file is not None
        assert checkpoint.tokenizer_file.read_text(encoding="utf-8") == "{é}"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["torch_dtype"] == "float32"
    assert config["eos_token_id"] == 7
    assert config["quantization_config"]["quant_method"] == "mxfp4"


def test_transformers_loads_what_is_written(tmp_path: Path, small: ModelConfig) -> None:
    tensors = dict(random_tensors(small, experts_format="bf16"))
    write_checkpoint(tmp_path, small, tensors.items(), experts_format="bf16", shard_bytes=SHARD)
    state = GptOssForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


class StoppedError(Exception):
    """Stands for anything that ends a write midway."""


def stopping(config: ModelConfig, after: int) -> Iterator[tuple[str, torch.Tensor]]:
    for count, item in enumerate(random_tensors(config)):
        if count == after:
            raise StoppedError
        yield item


@pytest.mark.parametrize("shard_bytes", [SHARD, 1 << 30])
@pytest.mark.parametrize("after", [0, 20, 40])
def test_an_interrupted_write_is_no_checkpoint_and_can_be_repeated(
    tmp_path: Path, small: ModelConfig, after: int, shard_bytes: int
) -> None:
    with pytest.raises(StoppedError):
        write_checkpoint(tmp_path, small, stopping(small, after), shard_bytes=shard_bytes)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
    write_checkpoint(tmp_path, small, random_tensors(small))  # fewer shards than the first may have begun
    open_checkpoint(tmp_path).close()
    assert not list(tmp_path.glob("*.part"))


def test_an_interrupted_overwrite_is_no_checkpoint_either(folder: Path, small: ModelConfig) -> None:
    with pytest.raises(StoppedError):
        write_checkpoint(folder, small, stopping(small, 30), overwrite=True)
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)


def test_weights_are_not_overwritten_unless_asked(folder: Path, small: ModelConfig) -> None:
    with pytest.raises(UsageError, match="holds weights already"):
        write_checkpoint(folder, small, random_tensors(small))
    open_checkpoint(folder).close()
    write_checkpoint(folder, small, random_tensors(small, seed=1), overwrite=True)
    open_checkpoint(folder).close()
    assert [file.name for file in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert not (folder / INDEX_FILE).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("lm_head.weight"), r"lm_head\.weight: was not given"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "extra: is unknown"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(3)}),
            r"model\.norm\.weight: is F32 \[3\], not BF16",
        ),
        (lambda t: t.update({"model.norm.weight": torch.zeros(64).double()}), "float64"),
    ],
)
def test_tensors_outside_the_schema(tmp_path: Path, small: ModelConfig, change, words: str) -> None:  # type: ignore[no-untyped-def]
    tensors = dict(random_tensors(small))
    change(tensors)
    with pytest.raises(CheckpointError, match=words):
        write_checkpoint(tmp_path, small, tensors.items())


def test_a_tensor_given_twice(tmp_path: Path, small: ModelConfig) -> None:
    tensors = list(random_tensors(small))
    with pytest.raises(CheckpointError, match="twice"):
        write_checkpoint(tmp_path, small, [*tensors, tensors[0]])


def test_a_config_that_could_not_be_read_back(tmp_path: Path, small: ModelConfig) -> None:
    from dataclasses import replace

    with pytest.raises(CheckpointError, match="layer_types"):
        write_checkpoint(tmp_path, replace(small, num_layers=5), [])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path, small: ModelConfig) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        write_checkpoint(tmp_path / "file" / "x", small, random_tensors(small))


STREAM = """
import sys
from pathlib import Path
from mosso.checkpoint.random_weights import write_random
from mosso.core.config import ModelConfig
config = ModelConfig(10, 32, 4, 512, 1024, 4, 2, 64, 16_384, 128, 4096)
write_random(sys.argv[1] + "/warm", "tiny", device="cpu")
def peak():  # not ru_maxrss, which begins at what the parent had when it forked
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
before = peak()
write_random(sys.argv[1], config, device="cpu", shard_bytes=32 << 20)
print(peak() - before)
"""


def test_writing_holds_one_shard_at_a_time(tmp_path: Path) -> None:
    """300 MB in shards of 32 MiB: a shard, the next tensor and the numbers that are drawn at once."""
    run = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert int(run.stdout) < 200 << 20
