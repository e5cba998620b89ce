"""The inside of the python tool's sandbox: run as a program of its own, it locks itself in and runs the code.

Started by mosso.tools.sandbox with an empty environment. Standard library only, no import of mosso: it is
read by `python -I -S`, before anything of a virtual environment is there. Standard input: one JSON object
with `code`, `binds` ([host path, path inside] pairs, read-only), `hidden` (folders inside that look empty),
`libraries` (shared ones, loaded before the door closes), `path` (for sys.path) and `limits`.

What locks it in, in order; if any step fails the code is not run, and the status pipe (file descriptor of
argv[1]) tells why:
1. New namespaces: users, mounts, processes, network, System V IPC, host name. No interface is up, not even
   the loopback one; no other process exists.
2. A root of its own in memory: /tmp (small, writable), and read-only Python's standard library and the
   packages it is given. Nothing else of the host's files is there, no /proc, no /sys, of devices only null,
   zero and urandom.
3. Limits: processor time, address space, size of files, number of open files.
4. No capabilities, no way to gain any (no_new_privs).
5. A list of system calls that computing needs; the others fail with EPERM: no sockets, no new processes or
   programs (threads only), no ptrace, no signals to others, no mounts, no keys, no io_uring.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from contextlib import suppress

CLONE = {"NEWNS": 0x20000, "NEWUTS": 0x4000000, "NEWIPC": 0x8000000, "NEWUSER": 0x10000000,
         "NEWPID": 0x20000000, "NEWNET": 0x40000000}  # fmt: skip
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18)  # fmt: skip
MS_NOATIME, MS_NODIRATIME, MS_RELATIME, ST_RELATIME = 1024, 2048, 1 << 21, 4096
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_SET_SECCOMP = 1, 38, 24, 22
SIGKILL = 9
INODES = 4096  # files of a tmpfs: each takes memory of the kernel that no other limit counts
WORK = "/tmp"  # noqa: S108 - inside it is the sandbox's own
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

# Numbers of system calls: (x86-64, arm64); None where an architecture has no such call.
ALLOWED = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None),
    "fstat": (5, 80), "lstat": (6, None), "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67), "pwrite64": (18, 68),
    "readv": (19, 65), "writev": (20, 66), "access": (21, None), "pipe": (22, None), "select": (23, None),
    "sched_yield": (24, 124), "mremap": (25, 216), "msync": (26, 227), "madvise": (28, 233),
    "dup": (32, 23), "dup2": (33, None), "pause": (34, None), "nanosleep": (35, 101),
    "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103), "getpid": (39, 172),
    "exit": (60, 93), "uname": (63, 160), "fcntl": (72, 25), "flock": (73, 32), "fsync": (74, 82),
    "fdatasync": (75, 83), "truncate": (76, 45), "ftruncate": (77, 46), "getdents": (78, None),
    "getcwd": (79, 17), "chdir": (80, 49), "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None),
    "unlink": (87, None), "readlink": (89, None), "chmod": (90, None), "fchmod": (91, 52),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175),
    "getegid": (108, 177), "getppid": (110, 173), "sigaltstack": (131, 132), "statfs": (137, 43),
    "fstatfs": (138, 44), "gettid": (186, 178), "time": (201, None), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "getdents64": (217, 61), "set_tid_address": (218, 96),
    "restart_syscall": (219, 128), "fadvise64": (221, 223), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94),
    "epoll_wait": (232, None), "epoll_ctl": (233, 21), "openat": (257, 56), "mkdirat": (258, 34),
    "newfstatat": (262, 79), "unlinkat": (263, 35), "renameat": (264, 38), "readlinkat": (267, 78),
    "fchmodat": (268, 53), "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73),
    "set_robust_list": (273, 99), "utimensat": (280, 88), "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59), "prlimit64": (302, 261),
    "renameat2": (316, 276), "getrandom": (318, 278), "membarrier": (324, 283), "statx": (332, 291),
    "rseq": (334, 293), "close_range": (436, 436), "faccessat2": (439, 439),
}  # fmt: skip
CLONE_CALL, CLONE3_CALL, IOCTL_CALL = (56, 220), (435, 435), (16, 29)
CLONE_THREAD = 0x10000
EPERM, ENOTTY, ENOSYS = 1, 25, 38
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the table, audit architecture

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = [text.encode() or None for text in (source, target, kind)]
    check(libc.mount(*arguments, ctypes.c_ulong(flags), data.encode()), f"mounting {target}")


def enter_namespaces() -> None:
    """This process is root in its user namespace then, for itself alone; the next child is process 1."""
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(sum(CLONE.values())), "making namespaces")
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{file}", "w") as out:
            out.write(text)


def flags_of(path: str) -> int:
    """The flags that a mount has and a remount without rights must keep."""
    given = os.statvfs(path).f_flag
    kept = given & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME)
    return kept | (MS_RELATIME if given & ST_RELATIME else 0)


def make_root(binds: list[list[str]], hidden: list[str], memory: int) -> None:
    mount("", "/", "", MS_REC | MS_PRIVATE)
    wanted = [*binds, *([device, device] for device in DEVICES)]
    opened = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source, _ in wanted]
    root = (
        WORK  # any folder that is there; what is in it is hidden, so that only what is open is still reached
    )
    mount("root", root, "tmpfs", MS_NOSUID | MS_NODEV, f"size=1m,nr_inodes={INODES},mode=755")
    for (name, target), descriptor in zip(wanted, opened, strict=True):
        source = f"/proc/self/fd/{descriptor}"
        inside = root + target
        if os.path.isdir(source):
            os.makedirs(inside, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            os.close(os.open(inside, os.O_CREAT, 0o644))
        mount(source, inside, "", MS_BIND)
        os.close(descriptor)
        hold = MS_NOSUID if name in DEVICES else MS_NOSUID | MS_NODEV
        mount("", inside, "", MS_REMOUNT | MS_BIND | MS_RDONLY | hold | flags_of(inside))
    for folder in hidden:
        mount("hidden", root + folder, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=0")
    os.mkdir(root + WORK)
    mount(
        "work",
        root + WORK,
        "tmpfs",
        MS_NOSUID | MS_NODEV | MS_NOEXEC,
        f"size={memory},nr_inodes={INODES},mode=700",
    )
    os.mkdir(root + "/.old")
    check(libc.pivot_root(root.encode(), (root + "/.old").encode()), "changing the root")
    os.chdir("/")
    check(libc.umount2(b"/.old", MNT_DETACH), "leaving the old root")
    os.rmdir("/.old")
    mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(WORK)


def set_limits(limits: dict[str, int]) -> None:
    seconds, memory = limits["cpu_seconds"], limits["memory"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["disk"], limits["disk"]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))


def drop_capabilities() -> None:
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    header = struct.pack("Ii", 0x20080522, 0)
    check(libc.capset(header, struct.pack("6I", *[0] * 6)), "dropping capabilities")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "forbidding new privileges")


def system_call_filter() -> bytes:
    """The list above as a BPF program."""
    column, architecture = MACHINES[platform.machine()]
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    allow, deny = 0x7FFF0000, 0x50000

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    program = [step(load, 4), step(equal, architecture, 1, 0), step(give, deny | EPERM), step(load, 0)]
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            program += [step(equal, number, 0, 1), step(give, allow)]
    program += [step(equal, CLONE3_CALL[column], 0, 1), step(give, deny | ENOSYS)]  # libc then tries clone
    program += [step(equal, IOCTL_CALL[column], 0, 1), step(give, deny | ENOTTY)]
    program += [step(equal, CLONE_CALL[column], 1, 0), step(give, deny | EPERM)]
    program += [
        step(load, 16),
        step(any_bit, CLONE_THREAD, 1, 0),
        step(give, deny | EPERM),
        step(give, allow),
    ]
    return b"".join(program)


def install_filter() -> None:
    program = system_call_filter()
    steps = ctypes.create_string_buffer(program)
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps)))
    check(libc.prctl(PR_SET_SECCOMP, 2, filter_, 0, 0), "filtering system calls")


def execute(code: str) -> int:
    """As a notebook's cell: what its last expression is worth is shown. The exit status."""
    import ast
    import linecache
    import traceback

    name = "<code>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        body = ast.parse(code, name)
        last = body.body[-1] if body.body else None
        if isinstance(last, ast.Expr):
            body.body.pop()
        exec(compile(body, name, "exec"), space)  # noqa: S102 - this is what it is for
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), space)  # noqa: S307
            if value is not None:
                print(repr(value))
    except SystemExit as leave:
        if isinstance(leave.code, str):
            print(leave.code)
        return 1 if leave.code else 0
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, trace)
        return 1
    return 0


def inside(task: dict[str, object], status: int) -> int:
    """Process 2: the one that runs the code."""
    limits = task["limits"]
    for library in task["libraries"]:  # type: ignore[attr-defined]
        with suppress(OSError):  # a module that needs it cannot be imported then
            ctypes.CDLL(library)
    make_root(task["binds"], task["hidden"], limits["disk"])  # type: ignore[arg-type,index]
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.path[:] = task["path"]  # type: ignore[call-overload]
    set_limits(limits)  # type: ignore[arg-type]
    drop_capabilities()
    install_filter()
    os.write(status, b"ready")
    os.close(status)
    result = execute(str(task["code"]))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            result = result or 1
    return result


def main() -> int:
    status = int(sys.argv[1])
    try:
        task = json.load(sys.stdin)
        sys.stdin.close()
        enter_namespaces()
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        first = os.fork()
        if first:  # outside: waits for the sandbox's process 1, with which all of it ends
            os.close(status)
            return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        second = os.fork()
        if second:  # process 1: signals do not end it, so that the code runs in another
            os.close(status)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) & 0xFF)
        result = inside(task, status)
    except BaseException as error:  # whatever it is: the code has not been run
        with suppress(OSError):
            os.write(status, f"{type(error).__name__}: {error}".encode()[:500])
        result = 70
    os._exit(result & 0xFF)


if __name__ == "__main__":
    sys.exit(main())
