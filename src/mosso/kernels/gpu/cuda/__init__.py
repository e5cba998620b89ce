"""Kernels in CUDA C++, compiled by NVRTC at first use: where Triton cannot reach the floor."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mosso.core.errors import EngineError
from mosso.kernels.gpu import launch

_SOURCES = Path(__file__).parent
_FLAGS = ("--std=c++17", "--use_fast_math", "--device-as-default-execution-space")


def compile_cubin(source: str, defines: Mapping[str, object], arch: str) -> bytes:
    """Machine code for `arch` (e.g. "sm_90") of a source file beside this one; needs no GPU.

    A define of True is set without a value, one of False is not set. Raises EngineError with NVRTC's log.
    """
    from cuda.bindings import nvrtc

    def check(error: Any, *results: Any) -> Any:
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise EngineError(f"NVRTC: {nvrtc.nvrtcGetErrorString(error)[1].decode()}")
        return results[0] if results else None

    text = (_SOURCES / source).read_bytes()
    program = check(*nvrtc.nvrtcCreateProgram(text, source.encode(), 0, [], []))
    options = [option.encode() for option in (*_FLAGS, f"--gpu-architecture={arch}", *_options(defines))]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * check(*nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise EngineError(f"{source} does not compile for {arch}:\n{log.decode(errors='replace')}")
    cubin = b" " * check(*nvrtc.nvrtcGetCUBINSize(program))
    check(*nvrtc.nvrtcGetCUBIN(program, cubin))
    nvrtc.nvrtcDestroyProgram(program)
    return cubin


def _options(defines: Mapping[str, object]) -> list[str]:
    return [
        f"-D{name}" if value is True else f"-D{name}={value}"
        for name, value in defines.items()
        if value is not False
    ]


def cached_cubin(source: str, defines: Mapping[str, object], arch: str) -> bytes:
    """From the user's cache folder; compiled and left there if it is missing. A folder that cannot be written
    costs only the compilation."""
    key = hashlib.sha256((_SOURCES / source).read_bytes())
    key.update(repr((_FLAGS, arch, sorted(defines.items()))).encode())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "mosso" / "cuda" / f"{Path(source).stem}-{key.hexdigest()[:24]}.cubin"
    if path.exists():
        return path.read_bytes()
    cubin = compile_cubin(source, defines, arch)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        Path(file.name).replace(path)  # nobody ever loads half a file
    except OSError:
        pass
    return cubin


class CudaKernel:
    """One kernel of one module, loaded on the current device. Launches go to torch's current stream."""

    def __init__(self, source: str, name: str, defines: Mapping[str, object], device: torch.device) -> None:
        from cuda.bindings import driver

        torch.zeros(1, device=device)  # torch makes its context current on this thread
        major, minor = torch.cuda.get_device_capability(device)
        self._pdl = launch.pdl(device)
        cubin = cached_cubin(source, defines, f"sm_{major}{minor}")
        self._driver = driver
        self._module = self._check(driver.cuModuleLoadData(cubin))
        self._function = self._check(driver.cuModuleGetFunction(self._module, name.encode()))

    def _check(self, result: tuple[Any, ...]) -> Any:
        if result[0] != self._driver.CUresult.CUDA_SUCCESS:
            raise EngineError(f"CUDA: {self._driver.cuGetErrorName(result[0])[1].decode()}")
        return result[1] if len(result) > 1 else None

    def launch(
        self, grid: tuple[int, int], threads: int, arguments: Sequence[torch.Tensor | int | float]
    ) -> None:
        """Tensors go as pointers, ints as int, floats as float."""
        config = self._driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.hStream = torch.cuda.current_stream().cuda_stream
        if self._pdl:
            attribute = self._driver.CUlaunchAttribute()
            attribute.id = (
                self._driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            )
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1
        values = tuple(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments)
        types = tuple(
            ctypes.c_void_p
            if isinstance(a, torch.Tensor)
            else ctypes.c_float
            if isinstance(a, float)
            else ctypes.c_int
            for a in arguments
        )
        self._check(self._driver.cuLaunchKernelEx(config, self._function, (values, types), 0))


planned: dict[tuple[str, tuple[tuple[str, object], ...]], None] = {}
"""The (source, defines) that were asked for with meta tensors (see launch), each once."""


class PlannedKernel:
    """A kernel for meta tensors: launching it does nothing."""

    def launch(
        self, grid: tuple[int, int], threads: int, arguments: Sequence[torch.Tensor | int | float]
    ) -> None:
        pass


@functools.cache
def _loaded(
    source: str, name: str, defines: tuple[tuple[str, object], ...], device: torch.device
) -> CudaKernel:
    return CudaKernel(source, name, dict(defines), device)


def kernel(
    source: str, name: str, defines: tuple[tuple[str, object], ...], device: torch.device
) -> CudaKernel | PlannedKernel:
    """The kernel, compiled and loaded once a process; for meta tensors it is only noted in `planned`."""
    if device.type == "meta":
        planned[source, defines] = None
        return PlannedKernel()
    return _loaded(source, name, defines, device)
