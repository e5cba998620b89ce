"""Kernels compiled before anything launches them: by many processes, for any chip, without a GPU.

What to compile is what would be launched: the wrappers themselves are called with meta tensors (see launch),
and each launch is noted instead of done. So there is no second list of kernels that could go stale, and the
key under which Triton's disk cache keeps a kernel is computed by the code that the real launch runs.

A process that plans never launches: it is one of its own (see engine.gpu_compile). The cache is where Triton
keeps it: TRITON_CACHE_DIR, else ~/.triton/cache; programs in CUDA C++ lie there too (see cuda_program).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import logging
import multiprocessing
import pkgutil
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia_driver
from triton.runtime.jit import JITFunction

from mosso.core.errors import EngineError, UsageError
from mosso.core.parent import end_with_parent
from mosso.kernels import gpu
from mosso.kernels.gpu import cuda_program, launch
from mosso.kernels.gpu.cuda_program import CudaProgram, write_whole
from mosso.kernels.gpu.launch import Chip

logger = logging.getLogger("mosso")


def on_compile(tell: Callable[[bool], None]) -> None:
    """From now on `tell(True)` is called before this process compiles a kernel, `tell(False)` after it."""

    def hook(begins: bool) -> Callable[..., None]:
        return lambda **_: tell(begins)

    triton.knobs.runtime.jit_cache_hook = hook(True)
    triton.knobs.runtime.jit_post_compile_hook = hook(False)
    cuda_program.listen(lambda name, seconds: tell(seconds is None))


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel's machine code; what it takes of a multiprocessor."""

    name: str
    shared_memory: int  # bytes of a program, those that are fixed when it is compiled
    seconds: float  # that its compilation took, or its finding in the cache
    cubin: bytes


class Variant(Protocol):
    """Something that is compiled in a process of the pool; picklable, hashable."""

    def compile(self) -> Compiled | None: ...


class Loadable(Variant, Protocol):
    """What an engine's process launches, and loads ahead."""

    def load(self) -> Any:
        """Find it in the cache, or compile it, for this process's device; launches then find it in memory."""


@dataclass(frozen=True, slots=True)
class TritonVariant:
    """One specialisation of a Triton kernel, in Triton's own words."""

    module: str
    name: str
    specialization: str

    def load(self) -> Any:
        function = getattr(importlib.import_module(self.module), self.name)
        return function.preload(self.specialization)

    def compile(self) -> Compiled:
        start = time.perf_counter()
        kernel = self.load()
        seconds = time.perf_counter() - start
        return Compiled(self.name, kernel.metadata.shared, seconds, kernel.asm["cubin"])


@dataclass(frozen=True, slots=True)
class CudaVariant:
    """A program in CUDA C++."""

    program: CudaProgram

    def load(self) -> Any:
        return self.program.load()

    def compile(self) -> Compiled:
        start = time.perf_counter()
        cubin = self.program.cubin()
        seconds = time.perf_counter() - start
        return Compiled(self.program.kernel, cuda_program.constant(cubin, "shared_bytes"), seconds, cubin)


@dataclass(frozen=True, slots=True)
class Launcher:
    """The C function that launches kernels of one signature: up to 3.6 Triton has a C compiler make each."""

    source: str

    def compile(self) -> None:
        _compile_c(self.source, "__triton_launcher")


@dataclass(frozen=True, slots=True)
class DriverModule:
    """Triton's own C module, made once a machine."""

    def compile(self) -> None:
        _compile_c((Path(nvidia_driver.__file__).parent / "driver.c").read_text(), "cuda_utils")


def _compile_c(source: str, name: str) -> None:
    nvidia_driver.compile_module_from_src(
        src=source,
        name=name,
        library_dirs=nvidia_driver.library_dirs(),
        include_dirs=nvidia_driver.include_dirs,
        libraries=nvidia_driver.libraries,
    )


class _PlannedDriver:
    """Triton's view of a chip that is not at hand: enough to bind arguments and to compile."""

    def __init__(self, chip: Chip) -> None:
        major, minor = chip.capability
        self._target = GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def fix_keys() -> None:
    """Hash every kernel of this package in one fixed order; before a process launches its first one.

    Triton (3.6, 3.7) gives a kernel one key in its disk cache if the functions that it calls were hashed
    before it, and another if not: it merges their global constants too early. So the order of the first
    launches would decide whether they find what another process compiled.
    """
    for info in sorted(pkgutil.iter_modules(gpu.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{gpu.__name__}.{info.name}")
        functions = {name: value for name, value in vars(module).items() if isinstance(value, JITFunction)}
        for _, function in sorted(functions.items()):
            _ = function.cache_key


def tell_of_late_compilation() -> None:
    """From now on log each kernel that this process compiles, as a warning: requests wait for it."""

    def told(*, src: Any, metadata: dict[str, Any], times: Any, cache_hit: bool, **_: Any) -> None:
        if not cache_hit:
            _warn_of_late(src.name, times.total / 1e6)

    triton.knobs.compilation.listener = told
    cuda_program.listen(_warn_of_late)


def _warn_of_late(name: str, seconds: float | None) -> None:
    if seconds is not None:
        logger.warning("the kernel %s was not ready: compiled in %.1f s", name, seconds)


def plan(chip: Chip, rehearse: Callable[[], None]) -> list[Variant]:
    """What `rehearse` launches on meta tensors, each variant once, in the order of the first launches.

    From here on this process takes itself to have that chip.
    """
    assert not launch.interpreted(), "the interpreter has nothing to compile"
    found: dict[Variant, None] = {}

    def note(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:  # noqa: A002 - Triton's name
        specialization = compile["specialization_data"]
        found[TritonVariant(fn.module, fn.name, specialization)] = None
        if _has_launchers():
            shape = json.loads(specialization)
            constants = {tuple(key): None for key in shape["constant_keys"]}
            found[Launcher(nvidia_driver.make_launcher(constants, compile["signature"], None))] = None
        return True  # stop here

    fix_keys()
    launch.plan_for(chip)
    triton.runtime.driver.set_active(_PlannedDriver(chip))
    hook, triton.knobs.runtime.jit_cache_hook = triton.knobs.runtime.jit_cache_hook, note
    try:
        with cuda_program.noting(lambda program: found.setdefault(CudaVariant(program))):
            rehearse()
    finally:
        triton.knobs.runtime.jit_cache_hook = hook
    return list(found)


def _has_launchers() -> bool:
    """Whether this Triton compiles launchers and this machine can: they are linked with the driver."""
    return hasattr(nvidia_driver, "make_launcher") and _libcuda() is not None


@functools.cache
def _libcuda() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def compile_all(variants: Sequence[Variant], processes: int) -> list[Compiled]:
    """Compile, or find in the cache, every variant, for the chip that this process planned for.

    Raises what the first compilation that failed raised. The processes are forked: the caller must have no
    threads that hold locks, and must not have opened a GPU.
    """
    if _libcuda() is not None:
        variants = [DriverModule(), *variants]
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(processes, max(1, len(variants))), context, end_with_parent) as pool:
        done = pool.map(_compile, variants)
        return [compiled for compiled in done if compiled is not None]


def _compile(variant: Variant) -> Compiled | None:
    return variant.compile()


def write_list(file: Path, variants: Sequence[Variant]) -> None:
    """Which kernels these are, for `read_list`; whole or not at all."""
    kernels = [asdict(variant) for variant in variants if isinstance(variant, TritonVariant | CudaVariant)]
    write_whole(file, json.dumps(kernels).encode())


def read_list(file: Path) -> list[Loadable]:
    return [_loadable(kernel) for kernel in json.loads(file.read_text())]


def _loadable(kernel: dict[str, Any]) -> Loadable:
    if "program" in kernel:
        return CudaVariant(CudaProgram(**kernel["program"]))
    return TritonVariant(**kernel)


_MAJOR, _MINOR, _MULTIPROCESSORS, _SHARED_MEMORY = 75, 76, 16, 97  # CUdevice_attribute


def chip_here(index: int = 0) -> Chip:
    """The chip of this machine, asked of the driver without opening it: no context, no memory on it."""
    library = _libcuda()
    device, value = ctypes.c_int(), ctypes.c_int()
    if library is None or library.cuInit(0) or library.cuDeviceGet(ctypes.byref(device), index):
        raise UsageError("this machine has no CUDA device that its driver can use")

    def attribute(number: int) -> int:
        if library.cuDeviceGetAttribute(ctypes.byref(value), number, device):
            raise EngineError(f"the CUDA driver does not know attribute {number}")
        return value.value

    capability = (attribute(_MAJOR), attribute(_MINOR))
    return Chip(capability, attribute(_SHARED_MEMORY), attribute(_MULTIPROCESSORS))


@dataclass(frozen=True, slots=True)
class Resources:
    """What a thread of a kernel takes; `stack` holds what registers do not (bytes)."""

    registers: int
    stack: int


def resources(cubin: bytes) -> Resources:
    """By the cuobjdump that comes with Triton; of the hungriest kernel in the file."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run(  # noqa: S603 - the tool that comes with Triton
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.findall(r"REG:(\d+) STACK:(\d+)", text)
    return Resources(max(int(regs) for regs, _ in found), max(int(stack) for _, stack in found))
