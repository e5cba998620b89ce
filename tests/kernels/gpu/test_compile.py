"""Every kernel compiled for every chip, without one: it fits the chip, and the engine's launches find it.

Each test runs in processes of its own, because the interpreter, once chosen, stays.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import triton
from processes import session_of

from mosso.checkpoint.config import config_json
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig
from mosso.core.errors import UsageError
from mosso.engine import gpu_compile
from mosso.kernels import gpu
from mosso.kernels.gpu import compile  # noqa: A004 - a module's name
from mosso.kernels.gpu.compile import tell_of_late_compilation
from mosso.kernels.gpu.cuda_program import compiler
from mosso.kernels.gpu.launch import CHIPS

from .wgmma_hazards import overwritten_weights

KIB = 1 << 10
SHARED_MEMORY = {
    "sm_80": 163 * KIB, "sm_86": 99 * KIB, "sm_89": 99 * KIB, "sm_90": 227 * KIB, "sm_100": 227 * KIB,
    "sm_120": 99 * KIB,
}  # fmt: skip
STACK = 128  # bytes of a thread that may lie outside its registers
HOPPER_STACK = 64  # where speed is promised
SMALL = ModelConfig(
    num_layers=2,
    num_experts=32,
    experts_per_token=4,
    hidden_size=320,
    intermediate_size=320,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=512,
    window=128,
    max_context=1024,
)

LAUNCH = """
import json, sys
from pathlib import Path

import triton

from mosso.checkpoint.config import read_config
from mosso.engine.gpu_compile import start_compiling
from mosso.kernels.gpu import compile as ahead, cuda_program, launch
from mosso.model.gpu_rehearsal import Workload, rehearse

class Driver(ahead._PlannedDriver):
    '''Has a chip that takes every kernel and runs none.'''

    class utils:
        get_device_properties = staticmethod(lambda index: {"max_shared_mem": 1 << 20})
        load_binary = staticmethod(lambda *_: (1, 1, 0, 0, 1024))

    launcher_cls = staticmethod(lambda source, metadata: lambda *_: None)

def launch_all():
    found = {True: [], False: []}
    triton.knobs.compilation.listener = lambda *, src, cache_hit, **_: found[cache_hit].append(src.name)
    cuda_program.listen(lambda name, seconds: found[False].append(name))
    with cuda_program.noting(cuda_program.CudaProgram.load):
        rehearse(Workload(read_config(folder), **sizes))
    return found[True], found[False]

cuda_program.CudaProgram.load = cuda_program.CudaProgram.cubin  # there is no device to put it on
folder, sizes = Path(sys.argv[1]), {"max_tokens": 64, "max_rows": 3, "max_context": 1024}
chip = launch.CHIPS["sm_90"]
launch.plan_for(chip)
triton.runtime.driver.set_active(Driver(chip))
said = start_compiling(folder, arch="sm_90", **sizes).wait()
hits, misses = launch_all()
print(json.dumps({"said": said, "hits": hits, "misses": misses}))
"""


def run(*command: str, **environment: str) -> list[dict[str, Any]]:
    """The JSON lines that a Python process prints; the interpreter is off in it."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=variables | environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def folder_of(config: ModelConfig, folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps(config_json(config)))
    return str(folder)


def kernels() -> set[str]:
    """Every kernel in the package's Python files; by the convention of their names."""
    files = Path(gpu.__path__[0]).glob("*.py")
    return {name for file in files for name in re.findall(r"^def (_\w+_kernel)\(", file.read_text(), re.M)}


def fitting(arch: str, config: ModelConfig, folder: Path, *flags: str, **environment: str) -> set[str]:
    """Compiles what an engine of `config` launches; names of the kernels, each of which the chip holds."""
    command = ("-m", "mosso.engine.gpu_compile", folder_of(config, folder), "--arch", arch, "--resources")
    *lines, summary = run(*command, *flags, **environment)
    assert (summary["arch"], summary["kernels"]) == (arch, len(lines))
    too_large = [line for line in lines if line["shared_memory"] > SHARED_MEMORY[arch]]
    assert not too_large
    spilling = [line for line in lines if line["stack"] > (HOPPER_STACK if arch == "sm_90" else STACK)]
    assert not spilling
    return {line["kernel"] for line in lines}


@pytest.mark.parametrize("arch", CHIPS)
def test_every_kernel_fits(arch: str, tmp_path: Path) -> None:
    assert CHIPS[arch].shared_memory == SHARED_MEMORY[arch]
    assert kernels() <= fitting(arch, GPT_OSS_20B, tmp_path)


@pytest.mark.parametrize(
    ("arch", "config", "flags"),
    [
        ("sm_86", GPT_OSS_120B, ()),
        ("sm_89", GPT_OSS_20B, ("--kv-dtype=float8_e4m3fn",)),
        ("sm_86", GPT_OSS_20B, ("--deterministic",)),
    ],
    ids=["120b", "float8", "deterministic"],
)
def test_other_choices_fit_the_smallest_chip_too(
    arch: str, config: ModelConfig, flags: tuple[str, ...], tmp_path: Path
) -> None:
    """The smallest that runs them: what is chosen for larger ones has more room there. Of 120b also Hopper's,
    below."""
    assert len(fitting(arch, config, tmp_path, *flags)) > 10


@pytest.fixture(scope="module")
def hopper_ptx(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Names and PTX of all kernels for Hopper, of both models' tiles."""
    folder = tmp_path_factory.mktemp("hopper")
    for config in (GPT_OSS_20B, GPT_OSS_120B):
        fitting("sm_90", config, folder, TRITON_CACHE_DIR=str(folder))
    return [(file.stem, file.read_text()) for file in folder.rglob("*.ptx")]


def test_no_product_loses_its_weights_while_it_runs(hopper_ptx: list[tuple[str, str]]) -> None:
    assert sum("wgmma.mma_async" in text for _, text in hopper_ptx) > 10
    assert [name for name, text in hopper_ptx if overwritten_weights(text)] == []


def test_every_kernel_starts_beside_the_one_ahead_and_those_with_weights_fetch_first(
    hopper_ptx: list[tuple[str, str]],
) -> None:
    """Programmatic dependent launch: what comes before the wait does not depend on the kernel ahead."""
    early = set()
    for name, text in hopper_ptx:
        assert text.count("griddepcontrol.launch_dependents") == text.count("griddepcontrol.wait") == 1, name
        if re.search(r"ld\.global|cp\.async\.c[ag]", text.partition("griddepcontrol.wait")[0]):
            early.add(name)
    assert early >= {"_qkv_kernel", "_linear_kernel", "_few_kernel", "_down_kernel", "_decode_kernel"}


_PRODUCT = """
$L__BB0_4:
\tldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r9];
\twgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r20,%r21}, {%r1,%r2,%r3,%r4}, %rd1, p, 1, 1, 0;
\twgmma.commit_group.sync.aligned;
\twgmma.wait_group.sync.aligned N;
\t@%p1 bra \t$L__BB0_4;
"""


def test_what_is_overwritten_too_early_is_seen() -> None:
    assert overwritten_weights(_PRODUCT.replace("N", "1")) == {"%r1", "%r2", "%r3", "%r4"}
    assert overwritten_weights(_PRODUCT.replace("N", "0")) == set()
    later = _PRODUCT.replace("N", "1").replace("\tldmatrix", "\twgmma.wait_group.sync.aligned 0;\n\tldmatrix")
    assert overwritten_weights(later) == set()


def test_launches_find_what_was_compiled(tmp_path: Path) -> None:
    """On the disk after the first start, in memory after those that follow."""
    folder, cache = folder_of(SMALL, tmp_path), tmp_path / "triton"
    (first,) = run("-c", LAUNCH, folder, TRITON_CACHE_DIR=str(cache))
    assert re.fullmatch(r"kernels: \d+ compiled for sm_90 in .* s", first["said"])
    assert not first["misses"]
    assert len(first["hits"]) > 20
    (made,) = cache.glob("mosso-*.json")
    assert ("hopper_gate_up" in made.read_text()) == (compiler() is not None)
    (second,) = run("-c", LAUNCH, folder, TRITON_CACHE_DIR=str(cache))
    assert re.fullmatch(
        rf"kernels: {len(json.loads(made.read_text()))} from the cache in .* s", second["said"]
    )
    assert (second["hits"], second["misses"]) == ([], [])

    made.write_text(made.read_text().replace("_norm_kernel", "_no_kernel"))  # a list that means nothing
    (third,) = run("-c", LAUNCH, folder, TRITON_CACHE_DIR=str(cache))
    assert "could not be loaded ahead" in third["said"]
    assert not third["misses"]
    assert not made.exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the processes are counted in /proc")
def test_nothing_compiles_on_for_an_engine_that_was_killed(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    cache = tmp_path / "triton"
    engine = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, folder_of(SMALL, tmp_path)],
        env=variables | {"TRITON_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(session_of(engine.pid)) > 2)  # it, the process that compiles, and a worker
        engine.kill()
        engine.wait()
        wait_until(lambda: not session_of(engine.pid))
        assert not list(cache.glob("mosso-*.json"))  # nobody came to the end
    finally:
        for pid in session_of(engine.pid):
            os.kill(pid, signal.SIGKILL)


def test_a_list_that_is_none_in_a_folder_that_is_only_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(compile, "tell_of_late_compilation", lambda: None)
    monkeypatch.setattr(Path, "unlink", refuse)
    (tmp_path / "list.json").write_text("half of a li")
    assert "could not be loaded ahead" in gpu_compile._start_loading(tmp_path / "list.json").wait()


def test_a_folder_that_can_keep_no_kernels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "triton"))
    with pytest.raises(UsageError, match=r"cannot be kept in .*TRITON_CACHE_DIR names another folder"):
        gpu_compile.start_compiling(Path(folder_of(SMALL, tmp_path)), arch="sm_90")


def wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_a_kernel_that_was_not_ready_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(triton.knobs.compilation, "listener", None)
    tell_of_late_compilation()
    source, times = SimpleNamespace(name="_late_kernel"), SimpleNamespace(total=2_300_000)
    for hit in (True, False):
        triton.knobs.compilation.listener(
            src=source, metadata={}, metadata_group={}, times=times, cache_hit=hit
        )
    assert caplog.messages == ["the kernel _late_kernel was not ready: compiled in 2.3 s"]


def test_a_chip_that_is_not_here_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mosso.engine.gpu_compile", folder_of(SMALL, tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode != 0
    assert "no CUDA device" in done.stderr.splitlines()[-1]
