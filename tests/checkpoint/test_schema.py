"""The schema against the published files' totals and shapes."""

from __future__ import annotations

import pytest

from mosso.checkpoint.schema import expected_tensors, original_names, total_bytes
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig
from mosso.core.errors import CheckpointError


@pytest.mark.parametrize(("config", "total"), [(GPT_OSS_20B, 13_761_264_768), (GPT_OSS_120B, 65_248_815_744)])
def test_the_published_total_to_the_byte(config: ModelConfig, total: int) -> None:
    assert total_bytes(config) == total


def test_published_shapes() -> None:
    specs = expected_tensors(GPT_OSS_20B)
    layer = "model.layers.23."
    assert len(specs) == 3 + 24 * 19
    assert specs[layer + "self_attn.q_proj.weight"].shape == (4096, 2880)
    assert specs[layer + "self_attn.o_proj.weight"].shape == (2880, 4096)
    assert specs[layer + "mlp.experts.gate_up_proj_blocks"].shape == (32, 5760, 90, 16)
    assert specs[layer + "mlp.experts.gate_up_proj_blocks"].dtypes == ("U8",)
    assert specs[layer + "mlp.experts.down_proj_scales"].shape == (32, 2880, 90)
    upcast = expected_tensors(GPT_OSS_20B, "bf16")
    assert upcast[layer + "mlp.experts.gate_up_proj"].shape == (32, 2880, 5760)
    assert upcast[layer + "mlp.experts.down_proj"].shape == (32, 2880, 2880)


def test_original_names_cover_the_schema_once() -> None:
    parts = [part for names in original_names(GPT_OSS_120B).values() for part in names]
    assert sorted(parts) == sorted(expected_tensors(GPT_OSS_120B))


def test_mxfp4_needs_whole_blocks(small: ModelConfig) -> None:
    from dataclasses import replace

    with pytest.raises(CheckpointError, match="multiples of 32"):
        expected_tensors(replace(small, intermediate_size=40))
    assert expected_tensors(replace(small, intermediate_size=40), "bf16")
