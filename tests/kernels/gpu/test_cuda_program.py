"""Programs in CUDA C++: what is kept on disk under which name, and what is said of those that fail."""

from __future__ import annotations

import builtins
import logging
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mosso.core.errors import EngineError
from mosso.kernels.gpu import cuda_program
from mosso.kernels.gpu.compile import CudaVariant, read_list, tell_of_late_compilation, write_list
from mosso.kernels.gpu.cuda_program import CudaProgram

PROGRAM = CudaProgram("moe_hopper.cu", "some_kernel", "KERNEL=some_kernel PAIRS=16", "sm_90a")
META = torch.device("meta")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda_program, "compiler", lambda: (13, 0))
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[bytes]]]:
    """The options of each compilation, of which none takes place."""
    found: list[list[bytes]] = []
    monkeypatch.setattr(cuda_program, "_listeners", [])
    monkeypatch.setattr(
        cuda_program, "_compile", lambda text, name, options: (found.append(options), b"code")[1]
    )
    return found


def test_a_program_is_compiled_once(cache: Path, compiled: list[list[bytes]]) -> None:
    assert [PROGRAM.cubin(), PROGRAM.cubin()] == [b"code", b"code"]
    assert compiled == [[b"--gpu-architecture=sm_90a", b"-std=c++20", b"-DKERNEL=some_kernel", b"-DPAIRS=16"]]
    assert [file.read_bytes() for file in cache.iterdir()] == [b"code"]


def test_whatever_the_code_follows_from_makes_it_anew(
    monkeypatch: pytest.MonkeyPatch, cache: Path, compiled: list[list[bytes]]
) -> None:
    PROGRAM.cubin()
    replace(PROGRAM, macros="KERNEL=some_kernel PAIRS=32").cubin()
    replace(PROGRAM, arch="sm_100a").cubin()
    monkeypatch.setattr(cuda_program, "compiler", lambda: (13, 1))
    PROGRAM.cubin()
    monkeypatch.setattr(CudaProgram, "_text", lambda self: b"another source")
    PROGRAM.cubin()
    assert len(compiled) == len(list(cache.iterdir())) == 5


def test_a_file_is_there_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    cuda_program.write_whole(file, b"first")

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as part:
            part.write(data[:1])
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        cuda_program.write_whole(file, b"second")
    assert [(found, found.read_bytes()) for found in file.parent.iterdir()] == [(file, b"first")]


@pytest.mark.usefixtures("cache", "compiled")
def test_compilation_is_told_of_and_a_late_one_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, bool]] = []
    cuda_program.listen(lambda kernel, seconds: told.append((kernel, seconds is None)))
    for _ in range(2):  # as an engine that starts again in one process
        tell_of_late_compilation()
    for _ in range(2):
        PROGRAM.cubin()
    assert told == [("some_kernel", True), ("some_kernel", False)]
    assert [message.split(": ")[0] for message in caplog.messages] == ["the kernel some_kernel was not ready"]


def test_launches_on_meta_tensors_are_noted(tmp_path: Path) -> None:
    noted: list[CudaProgram] = []
    with cuda_program.noting(noted.append):
        cuda_program.launch(PROGRAM, 132, (torch.empty(1, device=META), 1, 2.0), META)
    cuda_program.launch(PROGRAM, 132, (), META)
    assert noted == [PROGRAM]
    write_list(tmp_path / "list.json", [CudaVariant(PROGRAM)])
    assert read_list(tmp_path / "list.json") == [CudaVariant(PROGRAM)]


def said_without_compiler(caplog: pytest.LogCaptureFixture) -> str:
    """What is logged where there is none, however often it is asked for."""
    cuda_program.compiler.cache_clear()
    caplog.set_level(logging.INFO, "mosso")
    try:
        assert [cuda_program.compiler(), cuda_program.compiler()] == [None, None]
    finally:
        cuda_program.compiler.cache_clear()
    (message,) = caplog.messages
    return message


def test_without_the_bindings_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cuda"):
            raise ModuleNotFoundError("No module named 'cuda'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert said_without_compiler(caplog).endswith("Triton's serve instead: No module named 'cuda'")


def test_an_nvrtc_that_is_too_old_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nvrtc = SimpleNamespace(nvrtcVersion=lambda: (0, 11, 8))
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(nvrtc=nvrtc))
    assert said_without_compiler(caplog).endswith("Triton's serve instead: NVRTC 11.8 is older than 12.0")
    nvrtc.nvrtcVersion = lambda: (0, 12, 0)
    try:
        assert cuda_program.compiler() == (12, 0)
    finally:
        cuda_program.compiler.cache_clear()


def test_what_does_not_compile_is_told_with_the_compilers_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if cuda_program.compiler() is None:
        pytest.skip("no NVRTC")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(CudaProgram, "_text", lambda self: b"int broken() { return nothing; }")
    with pytest.raises(EngineError, match=r"moe_hopper.cu does not compile(.|\n)*nothing"):
        PROGRAM.cubin()
    assert list(tmp_path.iterdir()) == []


def test_a_constant_that_is_not_there() -> None:
    header = bytearray(64)
    struct.pack_into("<Q", header, 0x28, 64)
    with pytest.raises(EngineError, match="threads"):
        cuda_program.constant(bytes(header), "threads")
