"""Attempts to get out of the python tool's sandbox, and to take more than it gives."""

import asyncio
import os
import platform
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from needs import needs

from mosso.core.errors import UsageError
from mosso.tools import sandbox as room
from mosso.tools.python_tool import PythonTool
from mosso.tools.sandbox import _STDLIB, Sandbox, SandboxError, SandboxLimits
from mosso.tools.sandbox_child import WORK

LIMITS = SandboxLimits(seconds=60, memory=512 << 20, disk=4 << 20, output=20_000)


async def refusal() -> str | None:
    """Why this kernel gives no sandbox; None where it does."""
    try:
        await Sandbox(LIMITS).check()
    except UsageError as error:
        return error.message
    return None


WHY_NOT = asyncio.run(refusal())
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls by their numbers there")
needs_sandbox = needs(WHY_NOT is None, str(WHY_NOT))


class FromItsFirstLine(Sandbox):
    """Its time begins when the code has printed a line: a busy machine may take long to get there."""

    async def _watched(self, process, told):
        line = await process.stdout.readline()
        if line:
            process.stdout.feed_data(line)  # to be read again
        return await super()._watched(process, told)


@pytest.fixture(scope="module")
def sandbox():
    return Sandbox(LIMITS)


@pytest.fixture
def run(sandbox):
    async def execute(code):
        return await sandbox.run(code)

    return execute


RAW = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result
"""

WAYS_OUT = """
import os
for way in (lambda: os.chmod("/", 0o777), lambda: os.chown("/", 0, 0), lambda: os.chroot("/tmp")):
    try:
        way()
        print("!")
    except OSError:
        pass
"""
FORK_BOMB = """
import os
made = 0
for _ in range(10000):
    try:
        os.fork()
        made += 1
    except OSError:
        pass
print(made)
"""
SIGNALS = """
import os
for target in (0, -1, 1, os.getppid(), {}, -{}):
    try:
        os.kill(target, 15)
        print("!")
    except OSError:
        pass
"""
THREAD_BOMB = """
import threading
made = 0
try:
    while True:
        threading.Thread(target=threading.Event().wait, args=(3,), daemon=True).start()
        made += 1
except (RuntimeError, MemoryError):
    print(made < 200)
"""
FILL = """
n = 0
try:
    while True:
        with open(f"/tmp/{n}", "wb") as file:
            file.write(bytes(1 << 20))
        n += 1
except OSError:
    print(n)
"""
DESCRIPTORS = """
import os
for number in range(3, 64):
    try:
        os.fstat(number)
        print(number)
    except OSError:
        pass
print(os.read(0, 10))
"""


@needs_sandbox
async def test_code_runs(run):
    assert (await run("x = 6\nx * 7")).output == "42\n"
    assert (await run("print('Hallö')\nNone")).output == "Hallö\n"
    assert (await run("import numpy as np\nint(np.linalg.det(np.eye(3)))")).output == "1\n"
    assert (
        await run("import json, sqlite3, ssl, decimal, lzma, hashlib, uuid, random\n'all'")
    ).output == "'all'\n"
    assert (await run("open('a', 'w').write('hi'); open('a').read()")).output == "'hi'\n"
    threads = "import threading\nt = threading.Thread(target=print, args=(1,)); t.start(); t.join()"
    assert (await run(threads)).output == "1\n"
    assert (await run("import sys; sys.exit('bye')")).output == "bye\n"


@needs_sandbox
async def test_packages_may_lie_where_its_own_folders_will_be(monkeypatch):
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        Path(folder, "numpy").mkdir()
        Path(folder, "numpy/__init__.py").write_text("place = 'here'")
        monkeypatch.setattr(
            room, "_binds", lambda: [(_STDLIB, _STDLIB), (f"{folder}/numpy", "/packages/numpy")]
        )
        assert (await Sandbox(LIMITS).run("import numpy; numpy.place")).output == "'here'\n"


@needs_sandbox
async def test_errors_are_shown_as_python_shows_them(run):
    failed = await run("def f():\n    return 1 / 0\nf()")
    assert failed.output.startswith('Traceback (most recent call last):\n  File "<code>", line 3')
    assert failed.output.endswith("ZeroDivisionError: division by zero\n")
    assert (failed.exit_code, failed.problem) == (1, None)
    assert "SyntaxError" in (await run("1 +")).output


@needs_sandbox
async def test_nothing_is_kept_between_runs(run):
    await run("open('/tmp/kept', 'w').write('x'); kept = 1")
    again = await run("import os\nprint(os.listdir('/tmp'), 'kept' in globals())")
    assert again.output == "[] False\n"


@needs_sandbox
async def test_no_network(run):
    """Neither by a socket, nor by a raw system call, and no interface would be up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for code in (
            f"import socket; socket.create_connection(('127.0.0.1', {port}))",
            "import socket; socket.socket(socket.AF_UNIX)",
            f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}')",
            "import socket; socket.getaddrinfo('example.com', 80)",
        ):
            assert (await run(code)).exit_code == 1
        listener.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert (await run(RAW + "print([call(n, 2, 1, 0) for n in (41, 53, 198, 425)])")).output.count(
        "'EPERM'"
    ) == 4


@needs_sandbox
async def test_no_files_of_the_host(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    files = ["/etc/passwd", "/etc/hostname", str(secret), room.__file__, sys.executable, "/proc/self/environ",
             "/sys/kernel", "/bin/sh", "/.old", "/../../../etc/passwd", "/dev/mem", "/dev/tty"]  # fmt: skip
    seen = await run(f"import os\nprint([file for file in {files!r} if os.path.lexists(file)])")
    assert seen.output == "[]\n"
    tree = await run(
        "import os\nprint(sorted(os.listdir('/')), os.listdir('/tmp'), sorted(os.listdir('/dev')))"
    )
    top = {room._STDLIB.split("/")[1]} | {"tmp", "dev", "packages"}
    assert tree.output == f"{sorted(top)} [] ['null', 'urandom', 'zero']\n"
    hidden = await run(
        f"import os\nprint([f for f in {room._HIDDEN!r} if os.path.isdir(f) and os.listdir(f)])"
    )
    assert hidden.output == "[]\n"


@needs_sandbox
async def test_nothing_of_the_servers_environment(run, monkeypatch):
    monkeypatch.setenv("API_KEY", "s3cret")
    seen = await run("import os, sys\nprint(dict(os.environ), sys.argv, os.uname().nodename)")
    assert "s3cret" not in seen.output
    assert "API_KEY" not in seen.output


@needs_sandbox
async def test_nothing_can_be_written_outside_its_folder(run):
    stdlib = room._STDLIB
    for place in ("/x", "/dev/x", "/packages/x", f"{stdlib}/x.py", f"{stdlib}/os.py", "/packages/numpy/x"):
        assert "Error" in (await run(f"open({place!r}, 'w')")).output, place
    assert not os.path.exists(f"{stdlib}/x.py")
    assert (await run(WAYS_OUT)).output == ""


@needs_sandbox
async def test_no_processes(run):
    for code in (
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.system('true'); raise OSError if os.system('true') else None",
        "import os; os.execv('/proc/self/exe', ['x'])",
        "import multiprocessing as m; p = m.Process(target=print); p.start()",
    ):
        assert "Error" in (await run(code)).output, code
    assert (await run(FORK_BOMB)).output == "0\n"
    assert (
        await run(RAW + "print(call(56, 17, 0, 0, 0, 0), call(57), call(58), call(59, 0, 0, 0))")
    ).output == ("EPERM EPERM EPERM EPERM\n")


@needs_sandbox
@x86
async def test_no_powers_of_the_kernel(run):
    """ptrace, mounts, namespaces, chroot, setns, bpf, io_uring, keys, memfd, perf, and the other way to call
    this processor's kernel: refused, by number."""
    numbers = [
        101,
        165,
        166,
        272,
        161,
        308,
        321,
        425,
        248,
        319,
        298,
        310,
        311,
        317,
        157,
        105,
        135,
        0x40000000 + 41,
    ]
    tried = await run(RAW + f"print(set(call(n, 0, 0, 0, 0, 0) for n in {numbers}))")
    assert tried.output == "{'EPERM'}\n"
    sockets = await run(RAW + "print([call(n, 2, 1, 0) for n in (41, 53, 198, 425)])")
    assert sockets.output.count("'EPERM'") == 4
    processes = await run(RAW + "print(call(56, 17, 0, 0, 0, 0), call(57), call(58), call(59, 0, 0, 0))")
    assert processes.output == "EPERM EPERM EPERM EPERM\n"


@needs_sandbox
async def test_no_signals_to_the_server(run):
    """Neither to the parents, nor to a group, nor to everybody; there is nobody else to be seen."""
    got = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append(1))
    try:
        tried = await run(SIGNALS.format(os.getpid(), os.getpgrp()))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tried.output, tried.problem, got) == ("", None, [])


@needs_sandbox
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import threading\nwhile True: threading.Event().wait(9)",
    ],
)
async def test_time_is_limited(code):
    limits = SandboxLimits(seconds=4)
    ended = await FromItsFirstLine(limits).run(f"print('begun', flush=True)\n{code}")
    assert ended.output == "begun\n"
    assert ended.problem.startswith("stopped after 4 s")


class Asleep(Sandbox):
    """Its process sleeps until the code has printed and its time is over."""

    async def _watched(self, process, told):
        def sleep():
            select.select([process.stdout._transport.get_extra_info("pipe")], [], [])
            time.sleep(self.limits.seconds)

        asyncio.get_running_loop().call_soon(sleep)
        return await super()._watched(process, told)


@needs_sandbox
async def test_what_was_written_in_time_is_told_though_nobody_read_it_then():
    ended = await Asleep(SandboxLimits(seconds=1)).run(
        "import time\nprint('begun', flush=True)\ntime.sleep(600)"
    )
    assert ended.output == "begun\n"
    assert ended.problem == "stopped after 1 s"


@needs_sandbox
async def test_processor_time_is_limited_over_all_threads():
    """Four threads of numpy use it up four times as fast, where there are processors."""
    limits = SandboxLimits(seconds=4)
    ended = await FromItsFirstLine(limits).run("print(flush=True)\nwhile True: sum(range(10**6))")
    assert ended.problem.startswith("stopped after 4 s")


@needs_sandbox
async def test_memory_is_limited(run):
    assert "MemoryError" in (await run("x = bytearray(1 << 30)")).output
    assert "MemoryError" in (await run("x = []\nwhile True: x.append(bytearray(1 << 20))")).output
    assert (await run(THREAD_BOMB)).output == "True\n"


@needs_sandbox
async def test_disk_is_limited(run):
    assert (await run(FILL)).output in ("3\n", "4\n")
    sparse = "f = open('/tmp/a', 'wb'); f.seek(1 << 40); f.write(b'x'); f.flush()"
    assert (await run(sparse)).exit_code != 0
    empty = "import os\nfor n in range(10**5): os.close(os.open('/tmp/%d' % n, os.O_CREAT | os.O_WRONLY))"
    assert "No space left" in (await run(empty)).output


@needs_sandbox
async def test_output_is_limited(run):
    flood = await run("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    assert len(flood.output) == LIMITS.output
    assert flood.problem == "stopped: it wrote more than 20000 bytes"


@needs_sandbox
async def test_other_runs_and_the_server_go_on(sandbox):
    """A run that is given up leaves no process."""
    before = threading.active_count()  # other tests' threads may be there still
    hanging = asyncio.create_task(sandbox.run("import time; time.sleep(600)"))
    quick = await sandbox.run("1 + 1")
    assert quick.output == "2\n"
    await asyncio.sleep(0.5)
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert threading.active_count() - before < 20


@needs_sandbox
async def test_the_door_is_closed_before_the_code_runs(run):
    """The pipe that says so is gone, as is the code's own task on standard input."""
    tried = await run(DESCRIPTORS)
    assert tried.output == "b''\n"


@needs_sandbox
async def test_the_tool_tells_the_model(sandbox):
    tool = PythonTool(sandbox)
    assert (await tool.open().run("python", "6 * 7")).text == "42"
    assert (await tool.run("python", "x = 1")).text == "[no output]"
    tool = PythonTool(FromItsFirstLine(SandboxLimits(seconds=5)))
    assert "stopped after 5 seconds" in tool.namespace.description
    endless = await tool.run("python", "print(1, flush=True)\nwhile True: pass")
    assert endless.failed
    assert endless.text.startswith("1\n[stopped after 5 s")


async def test_without_the_sandbox_nothing_runs(monkeypatch):
    """A step that fails is told, and is no reason to run the code all the same."""
    weak = Sandbox(LIMITS)
    weak._binds = [("/no/such/folder", "/x")]
    with pytest.raises(SandboxError):
        await weak.run("print('run')")
    with pytest.raises(UsageError, match="cannot be isolated on this machine"):
        await weak.check()
    assert (await PythonTool(weak).run("python", "1")).text == "The Python environment is not available now."
    monkeypatch.setattr(room.platform, "machine", lambda: "mips")
    with pytest.raises(UsageError, match="it needs Linux on x86_64 or aarch64"):
        await weak.check()
