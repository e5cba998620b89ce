"""Opening good checkpoints: layouts, formats, mapped tensors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.layout import INDEX_FILE
from mosso.checkpoint.random_weights import write_random
from mosso.checkpoint.safetensors_file import encode_header
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError, UsageError


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """What the safetensors library reads."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_shards_read_as_the_library_reads_them(written: Path, small: ModelConfig) -> None:
    expected = all_tensors(written)
    with open_checkpoint(written) as checkpoint:
        assert checkpoint.config == small
        assert (checkpoint.layout, checkpoint.experts_format) == ("huggingface", "mxfp4")
        assert checkpoint.tokenizer_file == written / "tokenizer.json"
        assert set(checkpoint.names) == expected.keys()
        assert checkpoint.nbytes == sum(tensor.nbytes for tensor in expected.values())
        for name in checkpoint.names:
            tensor, info = checkpoint.read(name), checkpoint.info(name)
            assert tensor.dtype == expected[name].dtype
            assert torch.equal(tensor, expected[name])
            assert (info.name, info.shape, info.nbytes) == (name, tuple(tensor.shape), tensor.nbytes)
            with safe_open(info.file, "pt") as library:
                assert name in library.keys()  # noqa: SIM118 - the library's object is no mapping


@pytest.mark.parametrize("shards", [1, 3])
def test_both_layouts_give_equal_tensors(
    written: Path, small: ModelConfig, tmp_path: Path, write_original: Callable[..., None], shards: int
) -> None:
    """`original/` inside a repository, and the folder itself: the same names, the same bytes."""
    tensors = all_tensors(written)
    write_original(tmp_path / "repo" / "original", tensors, small, shards)
    (tmp_path / "repo" / "tokenizer.json").write_text("{}")
    (tmp_path / "repo" / "generation_config.json").write_text('{"eos_token_id": 5}')
    for folder in (tmp_path / "repo", tmp_path / "repo" / "original"):
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.layout == "original"
            assert checkpoint.config == small
            assert checkpoint.tokenizer_file == tmp_path / "repo" / "tokenizer.json"
            assert checkpoint.generation.eos_ids == (5,)
            assert set(checkpoint.names) == tensors.keys()
            for name, tensor in tensors.items():
                assert torch.equal(checkpoint.read(name), tensor), name


def test_huggingface_weights_win_over_original(
    folder: Path, small: ModelConfig, write_original: Callable[..., None]
) -> None:
    write_original(folder / "original", all_tensors(folder), small)
    assert open_checkpoint(folder).layout == "huggingface"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_transformers_saves(tmp_path: Path, dtype: torch.dtype) -> None:
    config = GptOssConfig(
        num_hidden_layers=2, num_local_experts=4, vocab_size=300, hidden_size=48, intermediate_size=40,
        head_dim=16, num_attention_heads=4, num_key_value_heads=2, num_experts_per_tok=2,
    )  # fmt: skip
    model = GptOssForCausalLM(config).to(dtype)
    model.save_pretrained(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.experts_format == "bf16"
        state = model.state_dict()
        assert set(checkpoint.names) == state.keys()
        assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in state.items())


def test_any_shard_names(folder: Path) -> None:
    index = folder / INDEX_FILE
    text = index.read_text()
    for number, file in enumerate(sorted(folder.glob("*.safetensors"))):
        file.rename(folder / f"weights {number} é.safetensors")
        text = text.replace(file.name, f"weights {number} é.safetensors")
    index.write_text(text)
    assert open_checkpoint(folder).read("model.norm.weight").shape == (64,)


def test_tensors_outlive_the_checkpoint_and_writes_stay_private(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    tensor = checkpoint.read("model.norm.weight")
    checkpoint.close()
    checkpoint.close()
    before = tensor.clone()
    tensor += 1
    assert torch.equal(open_checkpoint(folder).read("model.norm.weight"), before)
    with pytest.raises(UsageError, match="closed"):
        checkpoint.read("model.norm.weight")


def test_a_misaligned_tensor_is_read_all_the_same(folder: Path, small: ModelConfig) -> None:
    """The container allows any alignment; an odd byte in front shifts every tensor."""
    name = "lm_head.weight"
    file = open_checkpoint(folder).info(name).file
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}  # not views of the file
    order = sorted(tensors, key=lambda key: tensors[key].dtype != torch.uint8)
    header = encode_header(
        (key, {torch.uint8: "U8", torch.bfloat16: "BF16"}[tensors[key].dtype], tensors[key].shape)
        for key in order
    )
    header = (len(header) - 8 + 1).to_bytes(8, "little") + header[8:] + b" "
    data = b"".join(tensors[key].view(-1).view(torch.uint8).numpy().tobytes() for key in order)
    file.write_bytes(header + data)
    with open_checkpoint(folder) as checkpoint:
        assert torch.equal(checkpoint.read(name), tensors[name])
        assert all(t.data_ptr() % t.element_size() == 0 for t in map(checkpoint.read, checkpoint.names))


def test_a_dense_float32_tensor_is_allowed(folder: Path) -> None:
    name = "model.layers.0.mlp.router.weight"
    file = open_checkpoint(folder).info(name).file
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}  # not views of the file
    tensors[name] = tensors[name].float()
    save_file(tensors, file)
    assert open_checkpoint(folder).read(name).dtype == torch.float32


def test_no_such_tensor_or_folder(written: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tensor lm_head\.bias: there is no such tensor"):
        open_checkpoint(written).read("lm_head.bias")
    with pytest.raises(UsageError, match="is not a folder"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_checkpoint(tmp_path)


def test_looking_needs_no_torch(written: Path) -> None:
    code = (
        "import sys; from mosso.checkpoint import open_checkpoint; import mosso.model.plan;"
        f"open_checkpoint({str(written)!r}).info('lm_head.weight'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


STREAM = """
import sys
from pathlib import Path
from mosso.checkpoint import open_checkpoint
import torch
checkpoint = open_checkpoint(sys.argv[1])
torch.zeros(1024).sum()
def peak():  # not ru_maxrss, which begins at what the parent had when it forked
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
before = peak()
total = 0
for name in checkpoint.names:
    total += int(checkpoint.read(name).view(torch.uint8).max() > 0)  # a sum would make eight bytes of one
assert total == len(checkpoint.names)
print(checkpoint.nbytes, peak() - before)
"""


def test_streaming_holds_one_tensor_at_a_time(tmp_path: Path, small: ModelConfig) -> None:
    """300 MB in 60 tensors of which none exceeds 17 MB: reading every byte adds less than 64 MB."""
    config = replace(
        small,
        num_layers=10,
        hidden_size=512,
        intermediate_size=1024,
        num_experts=32,
        vocab_size=16_384,
        sliding=(),
    )
    write_random(tmp_path, config, device="cpu")
    run = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path)], check=True, capture_output=True, text=True
    )
    size, growth = map(int, run.stdout.split())
    assert size > 250 << 20
    assert growth < 64 << 20
