"""A trained network → a checkpoint folder that every reader of gpt-oss checkpoints can open."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mosso.checkpoint.config import GenerationDefaults
from mosso.checkpoint.writer import write_checkpoint
from mosso.kernels.mxfp4 import quantize
from mosso.train.network import Block, Network
from mosso.train.vocabulary import STOP_TOKENS

MASTER_FILE = "master.safetensors"
# Cool enough that the demo's arithmetic is dependable, warm enough that its wording varies.
TEMPERATURE, TOP_P = 0.3, 0.95


def checkpoint_tensors(network: Network) -> dict[str, torch.Tensor]:
    """The published names and dtypes: bfloat16, and uint8 for the experts' MXFP4 blocks and scales."""
    tensors: dict[str, torch.Tensor] = {"model.embed_tokens.weight": network.embedding}
    for layer, block in enumerate(network.blocks):
        assert isinstance(block, Block)
        for name, tensor in _block_tensors(block).items():
            tensors[f"model.layers.{layer}.{name}"] = tensor
    tensors |= {"model.norm.weight": network.norm.weight, "lm_head.weight": network.head}
    return {name: _stored(tensor) for name, tensor in tensors.items()}


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    dtype = tensor.dtype if tensor.dtype == torch.uint8 else torch.bfloat16
    return tensor.detach().to("cpu", dtype).contiguous()


def _block_tensors(block: Block) -> dict[str, torch.Tensor]:
    attention, experts = block.attention, block.experts
    gate_up, down = quantize(experts.gate_up_weight), quantize(experts.down_weight)
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
        "mlp.experts.gate_up_proj_blocks": gate_up[0],
        "mlp.experts.gate_up_proj_scales": gate_up[1],
        "mlp.experts.gate_up_proj_bias": experts.gate_up_bias,
        "mlp.experts.down_proj_blocks": down[0],
        "mlp.experts.down_proj_scales": down[1],
        "mlp.experts.down_proj_bias": experts.down_bias,
    }


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


def save_master(network: Network, folder: Path) -> None:
    """What training continues from: every parameter before MXFP4 rounding, in bfloat16."""
    state = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in network.state_dict().items()}
    save_file(state, folder / MASTER_FILE)


def load_master(network: Network, file: Path) -> None:
    network.load_state_dict(load_file(file))
