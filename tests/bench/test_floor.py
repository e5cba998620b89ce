"""The floor's arithmetic, against figures known from elsewhere."""

from __future__ import annotations

import pytest

from mosso.bench.floor import decode_bytes, stored_bytes
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
