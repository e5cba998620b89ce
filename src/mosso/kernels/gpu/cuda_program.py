"""Programs in CUDA C++ beside Triton's kernels: compiled by NVRTC, kept on disk, launched on torch's streams.

NVRTC and the driver are reached by NVIDIA's own package, cuda-bindings, which torch's CUDA wheels depend on.
An installation without them, or with an NVRTC that is too old for Hopper, has no `compiler()`, and whoever
would launch a program takes a Triton kernel.

Machine code lies in Triton's cache folder under a hash of all that it follows from. A launch on meta tensors
is noted instead of done, as compile.plan wants it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from mosso.core.errors import EngineError

logger = logging.getLogger("mosso")

_OPTIONS = ("-std=c++20",)
_OLDEST = (12, 0)  # NVRTC that knows sm_90a
_LOG_LINES = 5  # of the compiler's, that an error repeats

Argument = torch.Tensor | int | float  # a pointer, an int, a float

_listeners: list[Callable[[str, float | None], object]] = []
_note: Callable[[CudaProgram], object] | None = None


@functools.cache
def compiler() -> tuple[int, int] | None:
    """NVRTC's version; None where it or the bindings cannot be had or it is too old, which is logged once."""
    try:
        from cuda.bindings import nvrtc

        major, minor = map(int, _checked(nvrtc.nvrtcVersion()))
        if (major, minor) < _OLDEST:
            raise EngineError(f"NVRTC {major}.{minor} is older than {_OLDEST[0]}.{_OLDEST[1]}")
    except Exception as error:  # the bindings raise errors of their own where a library is missing
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.info("kernels in CUDA C++ cannot be compiled, Triton's serve instead: %s", reason)
        return None
    return major, minor


def listen(told: Callable[[str, float | None], object]) -> None:
    """From now on call told(kernel, None) before this process compiles one, told(kernel, seconds) after."""
    if told not in _listeners:
        _listeners.append(told)


@contextlib.contextmanager
def noting(note: Callable[[CudaProgram], object]) -> Iterator[None]:
    """Have `note` called with each program that is launched on meta tensors."""
    global _note
    _note = note
    try:
        yield
    finally:
        _note = None


@dataclass(frozen=True, slots=True)
class CudaProgram:
    """A kernel in a file of this package, for one architecture, with what its macros leave open.

    Beside the kernel (extern "C") the file defines two constants, `extern "C" __device__ const int`: threads,
    of a block, and shared_bytes, the dynamic shared memory that a block takes.
    """

    source: str  # name of the file
    kernel: str
    macros: str  # NAME=value NAME=value
    arch: str  # such as sm_90a

    def cubin(self) -> bytes:
        """The machine code, from the cache or else compiled into it.

        Raises EngineError, with the first lines of the compiler's log, for a program that does not compile.
        """
        file = self._cached()
        if not file.is_file():
            write_whole(file, self._compile())
        return file.read_bytes()

    def load(self) -> Loaded:
        """Find or compile it, for this process's current device; launches then find it in memory."""
        return _load(self, torch.cuda.current_device())

    def _text(self) -> bytes:
        return (Path(__file__).parent / self.source).read_bytes()

    def _options(self) -> list[bytes]:
        macros = [f"-D{macro}" for macro in self.macros.split()]
        return [option.encode() for option in (f"--gpu-architecture={self.arch}", *_OPTIONS, *macros)]

    def _cached(self) -> Path:
        digest = hashlib.sha256(repr((compiler(), self._options())).encode() + self._text())
        return Path(triton.knobs.cache.dir) / f"{self.kernel}-{digest.hexdigest()[:32]}.cubin"

    def _compile(self) -> bytes:
        start = time.perf_counter()
        for told in _listeners:
            told(self.kernel, None)
        try:
            return _compile(self._text(), self.source, self._options())
        finally:
            for told in _listeners:
                told(self.kernel, time.perf_counter() - start)


def _compile(text: bytes, name: str, options: list[bytes]) -> bytes:
    from cuda.bindings import nvrtc

    (program,) = _checked(nvrtc.nvrtcCreateProgram(text, name.encode(), 0, [], []))
    try:
        (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(error):
            log = _read(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
            lines = log.decode(errors="replace").strip("\0\n").splitlines()[:_LOG_LINES]
            raise EngineError("\n".join((f"{name} does not compile: {error.name}", *lines)))
        return _read(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _read(program: Any, size: Callable[..., Any], get: Callable[..., Any]) -> bytes:
    (length,) = _checked(size(program))
    buffer = bytearray(length)
    _checked(get(program, buffer))
    return bytes(buffer)


def _checked(result: Sequence[Any]) -> Sequence[Any]:
    """What a function of the bindings returned, without the status that comes first."""
    status, *values = result
    if int(status):
        raise EngineError(f"CUDA says {status.name}")
    return values


def write_whole(file: Path, data: bytes) -> None:
    """Write a file in one step: other processes find all of it or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        part = Path(folder) / file.name
        part.write_bytes(data)
        part.replace(file)


_SYMBOLS = 2  # the type of a section that holds symbols


def constant(cubin: bytes, name: str) -> int:
    """An `extern "C" __device__ const int` of machine code, which is a file in the ELF format.

    So no device is asked, which a stream under capture would not allow.
    """
    (headers,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count = struct.unpack_from("<HH", cubin, 0x3A)
    # name, type, flags, address, offset, size, link, info, alignment, size of an entry
    sections = [struct.unpack_from("<IIQQQQIIQQ", cubin, headers + index * size) for index in range(count)]
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind != _SYMBOLS:
            continue
        for at in range(offset, offset + length, entry):
            label, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", cubin, at)
            start = sections[link][4] + label
            if cubin[start : cubin.index(b"\0", start)] == name.encode():
                (number,) = struct.unpack_from("<i", cubin, sections[section][4] + value)
                return int(number)
    raise EngineError(f"machine code without the constant {name}")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A kernel in a device's memory, where it stays as long as the process does."""

    function: Any  # CUfunction
    threads: int
    shared_bytes: int


@functools.cache
def _load(program: CudaProgram, device: int) -> Loaded:
    from cuda.bindings import driver

    cubin = program.cubin()
    _enter(device)
    (module,) = _checked(driver.cuModuleLoadData(cubin))
    (function,) = _checked(driver.cuModuleGetFunction(module, program.kernel.encode()))
    shared_bytes = constant(cubin, "shared_bytes")
    dynamic = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _checked(driver.cuFuncSetAttribute(function, dynamic, shared_bytes))
    return Loaded(function, constant(cubin, "threads"), shared_bytes)


def _enter(device: int) -> None:
    """Give a thread that has no CUDA context yet the one that torch uses."""
    from cuda.bindings import driver

    (context,) = _checked(driver.cuCtxGetCurrent())
    if not int(context):
        (context,) = _checked(driver.cuDevicePrimaryCtxRetain(device))
        _checked(driver.cuCtxSetCurrent(context))


def launch(program: CudaProgram, blocks: int, arguments: Sequence[Argument], device: torch.device) -> None:
    """Start `blocks` thread blocks on torch's current stream, also while a graph is captured from it.

    The kernel may start before the one ahead of it has ended (programmatic dependent launch).
    """
    if device.type == "meta":
        if _note is not None:
            _note(program)
        return
    from cuda.bindings import driver

    loaded = program.load()
    _enter(torch.cuda.current_device())
    overlap = driver.CUlaunchAttribute()
    overlap.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    overlap.value.programmaticStreamSerializationAllowed = 1
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = blocks, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = loaded.threads, 1, 1
    config.sharedMemBytes = loaded.shared_bytes
    config.hStream = torch.cuda.current_stream().cuda_stream
    config.attrs = [overlap]
    config.numAttrs = 1
    values, types = zip(*(_passed(argument) for argument in arguments), strict=True)
    _checked(driver.cuLaunchKernelEx(config, loaded.function, (values, types), 0))


def _passed(argument: Argument) -> tuple[int | float, type]:
    if isinstance(argument, torch.Tensor):
        return argument.data_ptr(), ctypes.c_void_p
    return argument, ctypes.c_int if isinstance(argument, int) else ctypes.c_float
