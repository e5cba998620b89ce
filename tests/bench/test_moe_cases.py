"""The expert layer's cases at a small shape, on the CPU: the tensors are what the kernels take."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch.overrides import TorchFunctionMode

from mosso.bench.kernels import moe
from mosso.kernels.gpu.mxfp4_layout import packed_shapes, unpack

HIDDEN, EXPERTS = 128, 4


class OnCpu(TorchFunctionMode):
    """What asks for device="cuda" gets the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Four experts of 128 columns, in Triton's interpreter unless there is a GPU."""
    for name, value in (
        ("HIDDEN", HIDDEN),
        ("INNER", HIDDEN),
        ("SCALE_STRIDE", 16),
        ("LAYERS", {EXPERTS: 2}),
    ):
        monkeypatch.setattr(moe, name, value)
    if torch.cuda.is_available():
        yield
        return
    with OnCpu():
        yield


def test_random_experts_are_laid_out_as_the_kernels_read_them() -> None:
    experts = moe.random_experts(EXPERTS)
    for kind, rows in (("gate_up", 2 * HIDDEN), ("down", HIDDEN)):
        words, scales = (getattr(experts, f"{kind}_{part}") for part in ("words", "scales"))
        assert (words.shape, scales.shape) == packed_shapes(EXPERTS, rows, HIDDEN)
        values = unpack(words, scales, rows, HIDDEN).float()
        assert values.isfinite().all()
        assert 1e-3 < values.std() < 1
        assert set(scales.flatten().view(torch.uint8).tolist()) == {244, 245, 246}  # as in published weights
    assert {getattr(experts, field.name).dtype for field in fields(experts)} == {torch.int16, torch.bfloat16}


@pytest.mark.parametrize("tokens", [1, 8, 33])
def test_random_routing_lists_each_pair_once_with_its_expert(tokens) -> None:
    routing = moe.random_routing(tokens, EXPERTS)
    assert int(routing.counts.sum()) == tokens * moe.TOP
    for expert, count in enumerate(routing.counts.tolist()):
        pairs = routing.lists[expert, :count].long()
        assert (routing.chosen.flatten()[pairs] == expert).all()
        assert len(set(pairs.tolist())) == count
    assert torch.allclose(routing.shares.sum(-1), torch.ones(tokens, device=routing.shares.device))
    kinds = {each.dtype for each in (routing.chosen, routing.counts, routing.lists)}
    assert kinds == {torch.int32}


@pytest.mark.parametrize("kind", ["gate_up", "down"])
def test_a_case_runs_every_layer(kind) -> None:
    held = moe.layers(EXPERTS)
    case = moe.product_case(held, 2, kind)
    assert "(2 times)" in case.name
    results = case.run()
    assert [result.shape[-1] for result in results] == [HIDDEN, HIDDEN]


def test_many_tokens_take_one_layer(monkeypatch) -> None:
    monkeypatch.setattr(moe, "MANY", 8)
    held = moe.layers(EXPERTS)
    assert "(1 times)" in moe.product_case(held, 8, "down").name


def test_the_floor_is_the_touched_experts_read_or_the_products(monkeypatch) -> None:
    one = moe.random_routing(1, EXPERTS)
    touched = 4 * HIDDEN * HIDDEN * 17 / 32
    assert moe.product_floor(one, 1, HIDDEN) == pytest.approx((touched + 4 * 2 * HIDDEN * 2) / 3.0e12)
    monkeypatch.setattr(moe, "ARITHMETIC", 1e9)
    assert moe.product_floor(one, 1, HIDDEN) == pytest.approx(2 * 4 * HIDDEN * HIDDEN / 1e9)


def test_the_cases_cover_both_models(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(moe, "LAYERS", {32: 6, 128: 2})
    monkeypatch.setattr(moe, "layers", lambda count: count)
    monkeypatch.setattr(moe, "product_case", lambda held, tokens, kind: asked.append((held, tokens, kind)))
    list(moe.cases())
    for kind in ("gate_up", "down"):
        assert {(32, t, kind) for t in (1, 8, 32, 64, 128, 256, 512, 8192)} <= set(asked)
        assert {(128, t, kind) for t in (1, 8, 64, 128, 8192)} <= set(asked)
