"""The process that compiles a GPU engine's kernels while the engine opens its device and reads its weights.

    python -m mosso.engine.gpu_compile FOLDER [--arch sm_90] ...

It opens no GPU and takes no memory on one. What it leaves is in the disk caches, where the engine's launches
find it; its last line is a JSON object that says what it did.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Compilation:
    """A running process; see `start_compiling`."""

    process: subprocess.Popen[str]

    def wait(self) -> str:
        """Block until all is compiled, and have this process look for it; a sentence on how it went.

        To be called before the first launch. Failure is no error: what is missing is compiled when it is
        first launched, one kernel after another.
        """
        from mosso.kernels.gpu.compile import fix_keys

        fix_keys()
        out, err = self.process.communicate()
        if self.process.returncode:
            lines = err.strip().splitlines() or [f"exit status {self.process.returncode}"]
            return f"kernels: could not be compiled ahead: {lines[-1]}"
        found = json.loads(out.splitlines()[-1])
        return f"kernels: {found['kernels']} for {found['arch']}, ready after {found['seconds']:.1f} s"


def start_compiling(folder: Path, **options: str | int | bool) -> Compilation:
    """Begin to compile what an engine may launch; options: see `main`. Imports nothing, so it can come first.

    start_compiling(folder, max_rows=256, max_tokens=8192, kv_dtype="float8_e4m3fn", deterministic=True)
    """
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in options.items()
        if value is not False
    ]
    command = [sys.executable, "-m", __name__, str(folder), *flags]
    return Compilation(
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    )


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
    parser.add_argument("--resources", action="store_true", help="also print what each kernel takes")
    print(json.dumps(_compile(parser.parse_args())))


def _compile(options: argparse.Namespace) -> dict[str, object]:
    import time

    start = time.perf_counter()
    import torch
    import triton

    from mosso.checkpoint.config import read_config
    from mosso.kernels.gpu.compile import chip_here, compile_all, plan, resources
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
    triton.knobs.compilation.store_binary_only = True  # the engine reads all that is kept of a kernel
    variants = plan(chip, lambda: rehearse(work))
    planned = time.perf_counter()
    compiled = compile_all(variants, options.processes)
    end = time.perf_counter()
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
