"""Compiles the C sources on first use, for this machine's processor, and loads the result.

The library is kept in the user's cache folder under a name that hashes sources, command and processor, so it
is compiled once and never taken for another's. Where that folder cannot be written, each process compiles for
itself. Where there is no compiler there is no library, and the torch twins do the work.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent
_FILES = ("vectors.h", "matrix.h", "threads.h", "kernels.c")
_FLAGS = (
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    "-pthread",
    "-Wno-psabi",
)
_COMPILERS = ("cc", "gcc")
_COMPILE_SECONDS = 120
_DIGEST_BYTES = hashlib.sha256().digest_size


@functools.cache
def load() -> ctypes.CDLL | str:
    """The library, or one sentence that says why there is none. Compiles (two seconds) if it must."""
    try:
        try:
            return _open(_cache_folder())
        except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: there is no home folder
            with tempfile.TemporaryDirectory() as folder:
                return _open(Path(folder))  # stays mapped when the file is gone
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return f"the native kernels could not be built: {detail.strip().splitlines()[0]}"


def _open(folder: Path) -> ctypes.CDLL:
    """The library in `folder`, made there if it is missing or damaged."""
    path = folder / f"kernels-{_fingerprint()}.so"
    if _is_whole(path):
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # a folder whose programs may not be run, or the like
            pass
    _compile(path)
    return ctypes.CDLL(str(path))


def _is_whole(path: Path) -> bool:
    """Whether the library ends in the digest of the rest, as `_compile` made it. One that lost a part, where
    the disk was full or the machine went down, would be mapped all the same, and end the process later."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    return data[-_DIGEST_BYTES:] == hashlib.sha256(data[:-_DIGEST_BYTES]).digest()


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mosso" / "native"


def _fingerprint() -> str:
    digest = hashlib.sha256(" ".join((*_FLAGS, platform.machine(), _processor())).encode())
    for name in _FILES:
        digest.update((_SOURCES / name).read_bytes())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("flags", "Features", "model name", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _compile(path: Path) -> None:
    """Into a file of its own beside `path`, then renamed: nobody ever loads half a library."""
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise OSError("there is no C compiler (cc or gcc)")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *_FLAGS, str(_SOURCES / "kernels.c"), "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS)  # noqa: S603
        with made.open("r+b") as file:
            digest = hashlib.sha256(file.read()).digest()
            file.write(digest)  # behind all that a loader reads
        made.replace(path)
