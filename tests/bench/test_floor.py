"""The floor's arithmetic, against figures known from elsewhere."""

from __future__ import annotations

import pytest

from mosso.bench.floor import (
    H100,
    H200,
    Floor,
    Rates,
    decode_bytes,
    decode_operations,
    gpu_rates,
    stored_bytes,
)
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B

MXFP4 = stored_bytes("mxfp4")


def test_a_token_of_20b_reads_what_llama_cpp_reads() -> None:
    assert decode_bytes(GPT_OSS_20B, 1, 1, MXFP4, kv_bytes=2) == pytest.approx(3.70e9, rel=0.02)


def test_floors_of_an_h100_at_1024_tokens_of_context() -> None:
    """Milliseconds at 3.0 TB/s, as published beside our measurements of other engines."""
    for config, batch, floor in (
        (GPT_OSS_20B, 1, 1.25),
        (GPT_OSS_20B, 8, 3.12),
        (GPT_OSS_120B, 1, 1.68),
        (GPT_OSS_120B, 8, 5.71),
    ):
        read = decode_bytes(config, batch, 1024 + 128, MXFP4, kv_bytes=2)
        assert 1e3 * read / 3.0e12 == pytest.approx(floor, rel=0.03)


def test_a_sliding_layer_reads_no_more_than_its_window() -> None:
    def kv(context: int) -> float:
        return decode_bytes(GPT_OSS_20B, 1, context, MXFP4, 2) - decode_bytes(GPT_OSS_20B, 1, 0, MXFP4, 2)

    assert kv(128) == 24 * 128 * 2048
    assert kv(1128) - kv(128) == 12 * 1000 * 2048


@pytest.mark.parametrize(
    ("config", "decode", "prefill"),
    [
        (GPT_OSS_20B, {1: 1.25, 8: 3.12, 32: 4.48, 64: 4.87, 128: 5.54, 256: 6.88, 512: 9.57}, 122_900),
        (GPT_OSS_120B, {1: 1.68, 8: 5.71, 32: 14.49, 64: 19.68, 128: 23.00}, 81_800),
    ],
)
def test_the_bars_floors(config, decode, prefill) -> None:
    """Milliseconds a step at 1024 + 128 tokens of context, and prompt tokens a second."""
    floor = Floor(config, MXFP4, 2, H100)
    for batch, least in decode.items():
        assert 1e3 * floor.decode(batch, 1024 + 128) == pytest.approx(least, abs=0.006)
    assert floor.prefill_rate(1024) == pytest.approx(prefill, rel=1e-3)


def test_where_reading_is_quick_the_products_are_the_floor() -> None:
    slow = Floor(GPT_OSS_20B, MXFP4, 2, Rates(1e30, 1e12))
    assert slow.decode(8, 100) == pytest.approx(decode_operations(GPT_OSS_20B, 8, 100) / 1e12)
    assert Floor(GPT_OSS_20B, MXFP4, 2, Rates(1e12)).prefill_rate(1024) is None


def test_a_gpu_s_rates_are_its_own_or_an_h100_s():
    assert gpu_rates("NVIDIA H200") == H200
    assert gpu_rates("NVIDIA H100 80GB HBM3") == gpu_rates("NVIDIA A100-SXM4-80GB") == H100
    assert H200.bandwidth > H100.bandwidth
