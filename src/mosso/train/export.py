"""A trained network → a checkpoint folder that every reader of gpt-oss checkpoints can open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch

from mosso.checkpoint import GenerationDefaults, open_checkpoint
from mosso.checkpoint.writer import write_checkpoint
from mosso.core.errors import CheckpointError
from mosso.kernels.mxfp4 import dequantize, quantize
from mosso.train.network import Block, Network
from mosso.train.vocabulary import STOP_TOKENS

# Cool enough that the demo's arithmetic is dependable, warm enough that its wording varies.
TEMPERATURE, TOP_P = 0.3, 0.95


def dense_parameters(network: Network) -> dict[str, torch.Tensor]:
    """What is stored in bfloat16, by its published name."""
    params: dict[str, torch.Tensor] = {"model.embed_tokens.weight": network.embedding}
    for layer, block in enumerate(_blocks(network)):
        for name, tensor in _dense_of(block).items():
            params[f"model.layers.{layer}.{name}"] = tensor
    return params | {"model.norm.weight": network.norm.weight, "lm_head.weight": network.head}


def expert_matrices(network: Network) -> dict[str, torch.Tensor]:
    """What is stored in MXFP4, by the stem of its published names."""
    return {
        f"model.layers.{layer}.mlp.experts.{name}_proj": getattr(block.experts, f"{name}_weight")
        for layer, block in enumerate(_blocks(network))
        for name in ("gate_up", "down")
    }


def _blocks(network: Network) -> list[Block]:
    return cast(list[Block], list(network.blocks))


def _dense_of(block: Block) -> dict[str, torch.Tensor]:
    attention, experts = block.attention, block.experts
    projections = {
        f"self_attn.{name}_proj.{part}": getattr(attention, f"{name}_{part}")
        for name in "qkvo"
        for part in ("weight", "bias")
    }
    return {
        "input_layernorm.weight": block.attention_norm.weight,
        **projections,
        "self_attn.sinks": attention.sinks,
        "post_attention_layernorm.weight": block.experts_norm.weight,
        "mlp.router.weight": experts.router_weight,
        "mlp.router.bias": experts.router_bias,
        "mlp.experts.gate_up_proj_bias": experts.gate_up_bias,
        "mlp.experts.down_proj_bias": experts.down_bias,
    }


def checkpoint_tensors(network: Network) -> dict[str, torch.Tensor]:
    """Everything as the file stores it, on the CPU."""
    dense = dense_parameters(network).items()
    tensors = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in dense}
    for stem, matrix in expert_matrices(network).items():
        blocks, scales = quantize(matrix.detach())
        tensors |= {f"{stem}_blocks": blocks.cpu(), f"{stem}_scales": scales.cpu()}
    return tensors


@torch.no_grad()
def load(network: Network, folder: Path) -> None:
    """Continue from an exported checkpoint; its experts start from their MXFP4 values."""
    with open_checkpoint(folder) as checkpoint:
        if checkpoint.config != network.config:
            raise CheckpointError("the checkpoint is of another shape than the network", file=str(folder))
        for name, param in dense_parameters(network).items():
            param.copy_(checkpoint.read(name))
        for stem, matrix in expert_matrices(network).items():
            blocks, scales = checkpoint.read(f"{stem}_blocks"), checkpoint.read(f"{stem}_scales")
            matrix.copy_(dequantize(blocks, scales, torch.float32))


def export(network: Network, vocabulary: str, folder: Path) -> None:
    """Write the whole folder; `vocabulary` is the text of tokenizer.json. Replaces a former checkpoint."""
    controls = {token["content"]: token["id"] for token in json.loads(vocabulary)["added_tokens"]}
    stops = tuple(controls[text] for text in STOP_TOKENS)
    write_checkpoint(
        folder,
        network.config,
        checkpoint_tensors(network).items(),
        generation=GenerationDefaults(eos_ids=stops, temperature=TEMPERATURE, top_p=TOP_P),
        files={"tokenizer.json": vocabulary},
        overwrite=True,
    )
