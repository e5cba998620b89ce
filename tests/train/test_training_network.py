"""The trainable network is gpt-oss: what it computes is what the reference computes from its export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mosso.checkpoint import open_checkpoint
from mosso.core.config import ModelConfig
from mosso.core.errors import CheckpointError
from mosso.kernels.mxfp4 import dequantize
from mosso.model.loading import load_weights
from mosso.model.reference import logits
from mosso.train.attention import DENSE, FLEX, AttentionForm
from mosso.train.export import export, load
from mosso.train.network import Network
from mosso.train.vocabulary import STOP_TOKENS, byte_tokenizer

CONFIG = ModelConfig(
    num_layers=3,
    num_experts=6,
    experts_per_token=3,
    hidden_size=64,
    intermediate_size=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=266,
    window=16,
    max_context=4096,
)


def make_network(dtype: torch.dtype = torch.float32, form: AttentionForm = DENSE, seed: int = 0) -> Network:
    """A network whose every parameter is random: zeros and ones would hide a bias or a scale left out."""
    torch.manual_seed(seed)
    network = Network(CONFIG, length=128, dtype=dtype, form=form)
    with torch.no_grad():
        for param in network.parameters():
            param.add_(torch.randn_like(param) * 0.1)
    return network


# bfloat16 also flips a few close routing decisions of an untrained router
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_the_export_computes_what_was_trained(tmp_path: Path, dtype: torch.dtype, limit: float) -> None:
    network = make_network(dtype)
    export(network, byte_tokenizer().to_str(), tmp_path)
    tokens = torch.randint(0, CONFIG.vocab_size, (2, 100))
    with open_checkpoint(tmp_path) as checkpoint, torch.no_grad():
        assert checkpoint.config == CONFIG
        weights = load_weights(checkpoint, dtype=torch.float32, experts="expanded")
        expected = logits(weights, CONFIG, tokens)
        found, _ = network(tokens, torch.ones_like(tokens))
    assert float((found - expected).norm() / expected.norm()) < limit


def test_experts_are_exported_as_the_forward_pass_saw_them(tmp_path: Path) -> None:
    network = make_network()
    seen = network.quantized_experts()[0][1]
    export(network, byte_tokenizer().to_str(), tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        stem = "model.layers.1.mlp.experts.gate_up_proj"
        stored = dequantize(
            checkpoint.read(f"{stem}_blocks"), checkpoint.read(f"{stem}_scales"), torch.float32
        )
    assert torch.equal(seen, stored)


def test_a_folder_names_its_stop_tokens_and_sampling(tmp_path: Path) -> None:
    text = byte_tokenizer().to_str()
    export(make_network(), text, tmp_path)
    ids = {token["content"]: token["id"] for token in json.loads(text)["added_tokens"]}
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.generation.eos_ids == tuple(ids[stop] for stop in STOP_TOKENS)
        assert 0 < checkpoint.generation.temperature < 1


@pytest.mark.parametrize("form", [DENSE, FLEX], ids=["dense", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_documents_of_a_row_do_not_see_each_other(form: AttentionForm) -> None:
    network = make_network(form=form)
    tokens = torch.randint(0, CONFIG.vocab_size, (1, 96))
    documents = torch.tensor([[1] * 40 + [2] * 56])
    with torch.no_grad():
        packed, _ = network(tokens, documents)
        network.form = DENSE
        alone, _ = network(tokens[:, 40:], documents[:, 40:])
    torch.testing.assert_close(packed[:, 40:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_both_forms_of_attention_agree() -> None:
    query, key, value = (torch.randn(2, heads, 96, 16) for heads in (4, 2, 2))
    sinks, documents = torch.randn(4), (torch.arange(96) // 40).expand(2, -1).contiguous()
    for dense, flex in zip(DENSE.make_masks(documents, 8), FLEX.make_masks(documents, 8), strict=True):
        expected = DENSE.attend(query, key, value, sinks, dense)
        torch.testing.assert_close(FLEX.attend(query, key, value, sinks, flex), expected)


def test_routing_is_sparse_and_its_loss_is_one_when_even() -> None:
    experts = make_network().blocks[0].experts
    weights, _ = experts.route(torch.randn(50, CONFIG.hidden_size))
    assert ((weights > 0).sum(-1) == CONFIG.experts_per_token).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(50))
    with torch.no_grad():
        experts.router_weight.zero_()
        experts.router_bias.zero_()
    with torch.no_grad():
        tied, balance = experts.route(torch.randn(50, CONFIG.hidden_size))
    assert ((tied > 0).sum(-1) == CONFIG.experts_per_token).all()
    assert float(balance) == pytest.approx(1.0)


def test_every_parameter_gets_a_gradient() -> None:
    network = make_network()
    tokens = torch.randint(0, CONFIG.vocab_size, (2, 64))
    out, balance = network(tokens, torch.ones_like(tokens))
    (out.logsumexp(-1).mean() + balance).backward()
    silent = [
        name for name, param in network.named_parameters() if param.grad is None or not param.grad.any()
    ]
    assert silent == []


def test_training_continues_from_an_export(tmp_path: Path) -> None:
    network, other = make_network(seed=1), make_network(seed=2)
    export(network, byte_tokenizer().to_str(), tmp_path)
    load(other, tmp_path)
    tokens = torch.randint(0, CONFIG.vocab_size, (1, 64))
    with torch.no_grad():
        expected, found = (n(tokens, torch.ones_like(tokens))[0] for n in (network, other))
    assert torch.equal(expected, found)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    export(make_network(), byte_tokenizer().to_str(), tmp_path)
    with pytest.raises(CheckpointError, match="another shape"):
        load(Network(replace(CONFIG, window=32), length=32), tmp_path)
