"""Runs Python code where it can harm nobody: see sandbox_child for what locks it in.

There is no weaker way: where the kernel does not give all of it, `check` says so and nothing is run.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mosso.core.errors import UsageError
from mosso.tools.sandbox_child import MACHINES, WORK

CHILD = Path(__file__).with_name("sandbox_child.py")
PACKAGES = ("numpy", "numpy.libs")  # beside the standard library
READY = b"ready"
_PROBE = """
import os, socket
for attempt in (lambda: socket.socket(), lambda: os.fork(), lambda: os.listdir("/proc"),
                lambda: open("/etc/passwd"), lambda: open(%r), lambda: os.kill(1, 0)):
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit("the sandbox leaks")
print("tight")
"""
# Which shared libraries do the standard library and the packages load from elsewhere? These are loaded before
# the door closes: the loader knows them by name then, and no folder of the system's is needed inside.
_LIBRARIES = """
import glob, importlib, os, sys
for file in glob.glob(os.path.join(sys.argv[1], "lib-dynload", "*.so")):
    name = os.path.basename(file).partition(".")[0]
    if not name.startswith(("_test", "_xx", "xx", "_tkinter", "_ctypes_test", "_curses", "readline", "nis")):
        try:
            importlib.import_module(name)
        except ImportError:
            pass
try:
    import numpy, numpy.random, numpy.fft, numpy.linalg
except ImportError:
    pass
with open("/proc/self/maps") as maps:
    files = {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line and ".so" in line}
print(*sorted(file for file in files if not file.startswith(tuple(sys.argv[1:]))), sep="\\n")
"""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """`seconds` of wall time, and of processor time; bytes of address space, of files, and of output."""

    seconds: float = 30.0
    memory: int = 1 << 30
    disk: int = 16 << 20
    output: int = 64 << 10
    at_once: int = 4  # runs; more wait


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it. `problem`: why the code was stopped; None if it ran to its end."""

    output: str
    exit_code: int | None
    problem: str | None = None


class SandboxError(Exception):
    """The sandbox cannot be had here; the text says what is missing."""


class Sandbox:
    """Every run is a process of its own that starts empty and leaves nothing."""

    def __init__(self, limits: SandboxLimits | None = None) -> None:
        self.limits = limits or SandboxLimits()
        self._places = asyncio.Semaphore(self.limits.at_once)
        self._binds = _binds()
        self._libraries: list[str] | None = None

    async def check(self) -> None:
        """Runs code that tries to get out; UsageError unless the sandbox is there and holds."""
        reason = None
        if sys.platform != "linux" or platform.machine() not in MACHINES:
            reason = f"it needs Linux on {' or '.join(MACHINES)}"
        else:
            try:
                run = await self.run(_PROBE % str(Path(__file__)))
                if run.output != "tight\n":
                    reason = f"its own test gave {run.output[-300:]!r} ({run.problem})"
            except SandboxError as error:
                reason = str(error)
        if reason is not None:
            raise UsageError(
                f"the python tool cannot be isolated on this machine: {reason}. It needs user namespaces "
                "that anybody may make (see docs/tools.md); there is no weaker mode."
            )

    async def run(self, code: str) -> Run:
        """Run `code`. Raises SandboxError where it cannot be locked in; the code has not been run then."""
        async with self._places:
            if self._libraries is None:
                self._libraries = await asyncio.to_thread(_shared_libraries, self._binds)
            return await self._run(code)

    async def _run(self, code: str) -> Run:
        told, status = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-B", str(CHILD), str(status),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={"PATH": "/nowhere", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "HOME": WORK},
                cwd="/",
                pass_fds=(status,),
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(status)
        try:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.write(self._task(code))
                await process.stdin.drain()
            process.stdin.close()
            return await self._watched(process, told)
        finally:
            os.close(told)
            _kill(process)
            await asyncio.shield(asyncio.ensure_future(_reaped(process)))

    def _task(self, code: str) -> bytes:
        limits = self.limits
        bounds = {"cpu_seconds": max(1, int(limits.seconds)), "memory": limits.memory, "disk": limits.disk}
        task = {
            "code": code,
            "binds": self._binds,
            "hidden": [path for path in _HIDDEN if os.path.isdir(path)],
            "libraries": self._libraries,
            "path": [*_PATH, "/packages"],
            "limits": bounds,
        }
        return json.dumps(task).encode()

    async def _watched(self, process: asyncio.subprocess.Process, told: int) -> Run:
        """Reads the output until the end, the limit of time, or that of size."""
        limits, problem = self.limits, None
        output = bytearray()
        assert process.stdout is not None
        try:
            async with asyncio.timeout(limits.seconds):
                while chunk := await process.stdout.read(1 << 14):
                    output += chunk
                    if len(output) > limits.output:
                        problem = f"stopped: it wrote more than {limits.output} bytes"
                        break
                else:
                    await process.wait()
        except TimeoutError:
            problem = f"stopped after {limits.seconds:.0f} s"
            _kill(process)
            # What it has written in time may have come together with the end of that time.
            while len(output) <= limits.output and (chunk := await process.stdout.read(1 << 14)):
                output += chunk
        said = _said(told)
        if said != READY:
            raise SandboxError(
                said.decode("utf-8", "replace") or problem or "it ended before it was locked in"
            )
        code = process.returncode
        if problem is None and code is not None and code >= 128:
            number = 256 - code
            problem = f"killed by signal {number}"
            if number in (signal.SIGXCPU, signal.SIGKILL):
                problem = f"stopped after {limits.seconds:.0f} s of processor time"
        return Run(output[: limits.output].decode("utf-8", "replace"), code, problem)


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _reaped(process: asyncio.subprocess.Process) -> None:
    """A killed process, its pipes closed."""
    assert process.stdout is not None
    while await process.stdout.read(1 << 16):
        pass
    await process.wait()


def _said(told: int) -> bytes:
    os.set_blocking(told, False)
    try:
        return os.read(told, 1000)
    except BlockingIOError:
        return b""


_STDLIB = sysconfig.get_path("stdlib")
_PATH = [_STDLIB, os.path.join(_STDLIB, "lib-dynload")]
_HIDDEN = [os.path.join(_STDLIB, name) for name in ("site-packages", "dist-packages")]


def _binds() -> list[tuple[str, str]]:
    """Read-only parts of the host, as (its path, the path inside): the standard library, a few packages."""
    binds = [(_STDLIB, _STDLIB)]
    found = find_spec("numpy")
    if found is not None and found.origin is not None:
        home = Path(found.origin).parents[1]
        binds += [(str(home / name), f"/packages/{name}") for name in PACKAGES if (home / name).is_dir()]
    return binds


def _shared_libraries(binds: list[tuple[str, str]]) -> list[str]:
    folders = [source for source, _ in binds]
    homes = {str(Path(folder).parent) for folder in folders[1:]}
    asked = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-B", "-c", _LIBRARIES, *folders],
        capture_output=True, text=True, check=False, timeout=60, cwd="/",
        env={"PYTHONPATH": os.pathsep.join(homes), "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    return asked.stdout.split("\n")[:-1]
