"""When a CUDA context is opened ahead, and that whatever is wrong with it is left to torch to say."""

from __future__ import annotations

import ctypes
import json
import threading
from dataclasses import replace

import pytest

from mosso.engine import early_device
from mosso.engine.settings import EngineSettings


class Driver:
    """libcuda with `devices`; notes what is called."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.called: list[str] = []

    def cuInit(self, flags: int) -> int:  # noqa: N802
        self.called.append("init")
        return 0 if self.devices else 100

    def cuDeviceGet(self, device: object, index: int) -> int:  # noqa: N802
        self.called.append("device")
        return 0

    def cuDevicePrimaryCtxRetain(self, context: object, device: object) -> int:  # noqa: N802
        self.called.append("context")
        return 0 if self.devices else 101

    def cuDevicePrimaryCtxRelease_v2(self, device: object) -> int:  # noqa: N802
        self.called.append("release")
        return 0


def opened(monkeypatch, settings: EngineSettings, driver: Driver | None, *, release=False) -> list[str]:
    def load(name: str) -> Driver:
        assert name == "libcuda.so.1"
        if driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    early = early_device.EarlyDevice(settings)
    for thread in threading.enumerate():
        if thread.name == "context":
            thread.join()
    if release:
        early.release()
    return [] if driver is None else driver.called


ALL = ["init", "device", "context"]


@pytest.mark.parametrize(
    ("changes", "called"),
    [
        ({}, ALL),
        ({"device": "cuda"}, ALL),
        ({"device": "cpu"}, []),
        ({"dtype": "float32"}, []),
        ({"experts": "expanded"}, []),
    ],
)
def test_a_context_is_opened_for_engines_that_will_use_it(monkeypatch, model, changes, called):
    assert opened(monkeypatch, replace(EngineSettings(model), **changes), Driver(1)) == called


def test_plain_experts_are_for_the_cpu_unless_cuda_is_asked_for(monkeypatch, model, tmp_path):
    config = json.loads((model / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain = EngineSettings(tmp_path)
    assert opened(monkeypatch, plain, Driver(1)) == []
    assert opened(monkeypatch, replace(plain, device="cuda"), Driver(1)) == ALL


def test_without_a_device_or_a_driver_or_a_model_nothing_happens(monkeypatch, model, tmp_path):
    assert opened(monkeypatch, EngineSettings(model), Driver(0)) == ["init"]
    assert opened(monkeypatch, EngineSettings(model), None) == []
    assert opened(monkeypatch, EngineSettings(tmp_path), Driver(1)) == []


def test_a_context_that_nobody_needs_is_given_back(monkeypatch, model):
    """An engine comes to be one for the CPU where torch cannot use the device."""
    assert opened(monkeypatch, EngineSettings(model), Driver(1), release=True) == [*ALL, "release"]
    assert opened(monkeypatch, EngineSettings(model), Driver(0), release=True) == ["init"]
    assert opened(monkeypatch, EngineSettings(model), None, release=True) == []
    assert opened(monkeypatch, EngineSettings(model, device="cpu"), Driver(1), release=True) == []
