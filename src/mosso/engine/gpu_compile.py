"""A GPU engine's kernels are made ready while the engine reads its weights.

The first time a process of its own compiles them, which opens no GPU and takes no memory on one:

    python -m mosso.engine.gpu_compile FOLDER [--arch sm_90] ...

It leaves them in Triton's disk cache, beside a list of what they are; its last line is a JSON object that
says what it did. From then on a thread of the engine loads what the list says.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mosso.core.errors import UsageError
from mosso.core.parent import end_with


@dataclass(frozen=True, slots=True)
class Compilation:
    """Kernels under way; see `start_compiling`."""

    wait: Callable[[], str]
    """Block until all are ready, and have this process look for them; a sentence on how it went.

    To be called before the first launch. Failure is no error: what is missing is compiled when it is first
    launched, one kernel after another.
    """
    cancel: Callable[[], None]


def start_compiling(folder: Path, **options: str | int | bool) -> Compilation:
    """Begin to make ready what an engine on this process's device may launch; options: see `main`.

    start_compiling(folder, max_rows=256, max_tokens=8192, kv_dtype="float8_e4m3fn", deterministic=True)

    Raises UsageError where kernels are to be compiled and cannot be kept: Triton launches none then.
    """
    made = _list_for(folder, options)
    if made.is_file():
        return _start_loading(made)
    _require_writable(made.parent)
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in options.items()
        if value is not False
    ]
    own = (f"--list={made}", f"--parent={os.getpid()}")
    command = [sys.executable, "-m", __name__, str(folder), *own, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603

    def wait() -> str:
        from mosso.kernels.gpu.compile import fix_keys, tell_of_late_compilation

        fix_keys()
        tell_of_late_compilation()
        out, err = process.communicate()
        if process.returncode:
            lines = err.strip().splitlines() or [f"exit status {process.returncode}"]
            return f"kernels: could not be compiled ahead: {lines[-1]}"
        found = json.loads(out.splitlines()[-1])
        return f"kernels: {found['kernels']} compiled for {found['arch']} in {found['seconds']:.1f} s"

    return Compilation(wait, process.kill)


def _start_loading(made: Path) -> Compilation:
    """From the disk cache, by a thread: Python's part of it hides behind the reads of the weights."""
    start = time.perf_counter()
    said: list[str] = []

    def load() -> None:
        from mosso.kernels.gpu.compile import fix_keys, read_list, tell_of_late_compilation

        fix_keys()
        tell_of_late_compilation()
        try:
            variants = read_list(made)
            for variant in variants:
                variant.load()
            said.append(f"kernels: {len(variants)} from the cache in {time.perf_counter() - start:.1f} s")
        except (
            Exception
        ) as error:  # another Triton's list, a file that is gone: launches compile what they miss
            said.append(f"kernels: could not be loaded ahead: {error}")
            with contextlib.suppress(OSError):  # a folder that is only to be read
                made.unlink(missing_ok=True)

    thread = threading.Thread(target=load, name="kernels", daemon=True)
    thread.start()

    def wait() -> str:
        thread.join()
        return said[0]

    return Compilation(wait, lambda: None)


def _require_writable(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        why = f"compiled kernels cannot be kept in {cache}: {error.strerror}"
        raise UsageError(f"{why}; TRITON_CACHE_DIR names another folder") from error


def _list_for(folder: Path, options: dict[str, str | int | bool]) -> Path:
    """Where the list of these kernels is or will be: within Triton's cache, so that they go together."""
    import torch
    import triton

    from mosso.kernels.gpu.cuda_program import compiler
    from mosso.kernels.gpu.launch import chip

    here = options.get("arch") or chip(torch.device("cuda", torch.cuda.current_device()))
    rooms = Path(__file__).parent.parent
    kernels = rooms / "kernels" / "gpu"
    sources = [*kernels.glob("*.py"), *kernels.glob("*.cu"), *(rooms / "model").glob("*.py")]
    versions = triton.__version__, torch.__version__, compiler()
    digest = hashlib.sha256(repr((*versions, here, sorted(options.items()))).encode())
    for file in (folder / "config.json", *sorted(sources)):
        digest.update(file.read_bytes())
    return Path(triton.knobs.cache.dir) / f"mosso-{digest.hexdigest()[:32]}.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mosso.engine.gpu_compile", description=__doc__)
    parser.add_argument("folder", type=Path, help="a checkpoint, or its config.json")
    parser.add_argument("--arch", help="a chip that is not here, by its architecture, such as sm_90")
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--max-rows", type=int, default=512)
    parser.add_argument("--max-context", type=int, default=131_072)
    parser.add_argument("--page-size", type=int, default=16)
    parser.add_argument("--kv-dtype", default="bfloat16")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", type=Path, help="where to say what was compiled")
    parser.add_argument(
        "--resources", action="store_true", help="print what each kernel takes, and keep its PTX too"
    )
    parser.add_argument("--parent", type=int, help="the process that started this one, which ends with it")
    options = parser.parse_args()
    if options.parent is not None:
        end_with(options.parent)
    print(json.dumps(_compile(options)))


def _compile(options: argparse.Namespace) -> dict[str, object]:
    start = time.perf_counter()
    import torch
    import triton

    from mosso.checkpoint.config import read_config
    from mosso.kernels.gpu.compile import chip_here, compile_all, plan, resources, write_list
    from mosso.kernels.gpu.launch import CHIPS
    from mosso.model.gpu_operations import TRITON, deterministic
    from mosso.model.gpu_rehearsal import Workload, rehearse

    chip = CHIPS[options.arch] if options.arch else chip_here()
    work = Workload(
        config=read_config(options.folder),
        max_tokens=options.max_tokens,
        max_rows=options.max_rows,
        max_context=options.max_context,
        page_size=options.page_size,
        kv_dtype=getattr(torch, options.kv_dtype),
        ops=deterministic(TRITON) if options.deterministic else TRITON,
    )
    imported = time.perf_counter()
    triton.knobs.compilation.store_binary_only = not options.resources  # an engine reads all that is kept
    variants = plan(chip, lambda: rehearse(work))
    planned = time.perf_counter()
    compiled = compile_all(variants, options.processes)
    end = time.perf_counter()
    if options.list is not None:
        write_list(options.list, variants)
    if options.resources:
        for kernel in compiled:
            used = resources(kernel.cubin)
            line = {"kernel": kernel.name, "shared_memory": kernel.shared_memory, "seconds": kernel.seconds}
            print(json.dumps({**line, "registers": used.registers, "stack": used.stack}))
    return {
        "arch": chip.arch,
        "kernels": len(compiled),
        "seconds": end - start,
        "import": imported - start,
        "plan": planned - imported,
        "compile": end - planned,
        "work": sum(kernel.seconds for kernel in compiled),  # of all processes
    }


if __name__ == "__main__":
    main()
