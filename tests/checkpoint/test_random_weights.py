"""Random checkpoints: real shapes, repeatable, finite, near-uniform routing; and their toy tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from mosso.checkpoint import open_checkpoint
from mosso.checkpoint.random_weights import RESIDUAL_GAIN, SIZES, TINY, random_tensors, write_random
from mosso.checkpoint.schema import total_bytes
from mosso.checkpoint.toy_tokenizer import FULL_VOCAB, MIN_VOCAB, toy_generation, toy_tokenizer
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig
from mosso.core.errors import UsageError
from mosso.kernels.experts import route
from mosso.kernels.norm import rms_norm
from mosso.kernels.rope import rope_tables
from mosso.model.loading import load_weights
from mosso.model.reference import attention_block, expert_block

CONTROLS = {
    "startoftext": 199998, "endoftext": 199999, "return": 200002, "constrain": 200003, "channel": 200005,
    "start": 200006, "end": 200007, "message": 200008, "call": 200012, "endofprompt": 200018,
}  # fmt: skip


def load_tokenizer(vocab_size: int) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(toy_tokenizer(vocab_size))


def test_tiny_is_small_and_complete(tmp_path: Path) -> None:
    config = write_random(tmp_path, "tiny", device="cpu")
    assert config == TINY == SIZES["tiny"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 3 << 20
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.config == TINY
        assert checkpoint.generation == toy_generation(TINY.vocab_size)
        tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint.tokenizer_file))
    assert tokenizer.get_vocab_size() == TINY.vocab_size
    eos = [tokenizer.id_to_token(token) for token in checkpoint.generation.eos_ids]
    assert eos == ["<|return|>", "<|endoftext|>", "<|call|>"]


def test_published_sizes() -> None:
    assert (SIZES["20b"], SIZES["120b"]) == (GPT_OSS_20B, GPT_OSS_120B)


def test_fewer_layers_keep_the_20b_shapes(tmp_path: Path) -> None:
    """One layer of the 20b model, with the vocabulary cut so that the test stays light."""
    base = replace(GPT_OSS_20B, vocab_size=512)
    seen: list[tuple[int, int]] = []
    config = write_random(tmp_path, base, layers=1, device="cpu", report=lambda *step: seen.append(step))
    assert config == replace(base, num_layers=1, sliding=(True,))
    total = total_bytes(config)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.info("model.layers.0.mlp.experts.gate_up_proj_blocks").shape == (32, 5760, 90, 16)
        assert checkpoint.nbytes == total


def test_equal_seeds_give_equal_bytes_and_others_do_not() -> None:
    one, same, other = (dict(random_tensors(TINY, seed)) for seed in (3, 3, 4))
    deeper = dict(random_tensors(replace(TINY, num_layers=5, sliding=()), 3))
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name])
        assert torch.equal(tensor, deeper[name])
        assert not torch.equal(tensor, other[name]), name


def dequantize(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The definition of MXFP4, written out again for the test."""
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).long()
    return (table[codes] * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)


@pytest.mark.parametrize("hidden", [64, 2880])
def test_products_keep_their_scale(hidden: int) -> None:
    """Every matrix maps unit-size input to output of about unit size."""
    config = replace(TINY, num_layers=1, sliding=(), hidden_size=hidden, intermediate_size=96)
    tensors = dict(random_tensors(config))
    x = torch.randn(256, hidden, generator=torch.Generator().manual_seed(0))
    experts = "model.layers.0.mlp.experts."
    gate_up = dequantize(tensors[experts + "gate_up_proj_blocks"], tensors[experts + "gate_up_proj_scales"])
    for matrix in (
        *(tensors[f"model.layers.0.self_attn.{name}_proj.weight"].float() for name in "qkv"),
        tensors["model.layers.0.mlp.router.weight"].float(),
        tensors["lm_head.weight"].float(),
        *gate_up,
    ):
        assert 0.5 < float((x @ matrix.T).std()) < 2
    down = dequantize(tensors[experts + "down_proj_blocks"], tensors[experts + "down_proj_scales"])
    assert 0.5 < float(down.std()) * 96**0.5 / RESIDUAL_GAIN < 2
    assert 0.9 < float(tensors["model.embed_tokens.weight"].float().std()) < 1.1
    assert 0.9 < float(tensors["model.norm.weight"].float().mean()) < 1.1
    assert float(tensors[experts + "gate_up_proj_bias"].float().abs().max()) < 0.2


def test_nibbles_are_uniform() -> None:
    blocks = dict(random_tensors(TINY))["model.layers.0.mlp.experts.gate_up_proj_blocks"].flatten()
    for codes in (blocks & 15, blocks >> 4):
        shares = codes.long().bincount(minlength=16) / codes.numel()
        assert float((shares * 16 - 1).abs().max()) < 0.1
    last = blocks.view(-1, 8)[:, 7] >> 7  # the sign bit of each 64-bit draw
    assert 0.45 < float(last.float().mean()) < 0.55


def test_routing_is_nearly_uniform_and_activations_stay_of_unit_size(tmp_path: Path) -> None:
    """Through 24 layers of 32 experts: no expert gets less than a third or more than twice its share."""
    config = replace(
        TINY,
        num_layers=24,
        num_experts=32,
        hidden_size=256,
        intermediate_size=256,
        vocab_size=2048,
        sliding=(),
    )
    write_random(tmp_path, config, device="cpu")
    with open_checkpoint(tmp_path) as checkpoint:
        weights = load_weights(checkpoint, dtype=torch.float32)
    tokens = torch.randint(0, config.vocab_size, (400,), generator=torch.Generator().manual_seed(0))
    x = weights.embedding[tokens].float()
    tables = rope_tables(config.rope, config.head_dim, torch.arange(len(tokens)))
    for layer in weights.layers:
        x = x + attention_block(x, layer, config, tables, None)
        normed = rms_norm(x, layer.mlp_norm, config.rms_norm_eps)
        chosen, _ = route(normed, layer.router, layer.router_bias, config.experts_per_token)
        shares = chosen.flatten().bincount(minlength=32) * 32 / chosen.numel()
        assert 0.33 < float(shares.min()) <= float(shares.max()) < 2
        x = x + expert_block(x, layer, config)
    assert 0.9 < float(x.std(-1).min()) <= float(x.std(-1).max()) < 2


def test_wrong_wishes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="20b, 120b, tiny"):
        write_random(tmp_path, "7b")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--layers"):
        write_random(tmp_path, "tiny", layers=0)
    with pytest.raises(UsageError, match="vocabulary"):
        write_random(tmp_path, replace(TINY, vocab_size=MIN_VOCAB - 1))
    assert not list(tmp_path.iterdir())


def test_bf16_experts(tmp_path: Path, small: ModelConfig) -> None:
    write_random(tmp_path, small, experts_format="bf16", device="cpu")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.experts_format == "bf16"
        down = checkpoint.read("model.layers.0.mlp.experts.down_proj").float()
    assert float(down.std()) * small.intermediate_size**0.5 == pytest.approx(RESIDUAL_GAIN, rel=0.05)


def test_the_full_vocabulary_has_the_published_control_ids() -> None:
    tokenizer = load_tokenizer(FULL_VOCAB)
    assert tokenizer.get_vocab_size() == FULL_VOCAB
    assert {name: tokenizer.token_to_id(f"<|{name}|>") for name in CONTROLS} == CONTROLS
    assert tokenizer.token_to_id("<|reserved_200013|>") == 200013
    assert toy_generation(FULL_VOCAB).eos_ids == (200002, 199999, 200012)
    words = {
        "analysis": 35644,
        "final": 17196,
        "assistant": 173781,
        "system": 17360,
        "developer": 77944,
        "user": 1428,
    }
    assert {word: tokenizer.encode(word).ids for word in words} == {word: [i] for word, i in words.items()}


def test_every_id_has_a_text_of_its_own() -> None:
    tokenizer = load_tokenizer(FULL_VOCAB)
    texts = {tokenizer.id_to_token(token) for token in range(FULL_VOCAB)}
    assert None not in texts
    assert len(texts) == FULL_VOCAB


def test_a_small_vocabulary_ends_with_the_control_tokens() -> None:
    tokenizer = load_tokenizer(512)
    first = 512 - 21
    for name, token in CONTROLS.items():
        assert tokenizer.token_to_id(f"<|{name}|>") == first + token - 199998
    assert tokenizer.encode("<|start|>assistant<|end|>").ids == [first + 8, 261, first + 9]


@given(text=st.text(), size=st.sampled_from([MIN_VOCAB, 512]))
def test_any_text_survives(text: str, size: int) -> None:
    tokenizer = load_tokenizer(size)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
