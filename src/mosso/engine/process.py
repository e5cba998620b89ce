"""The engine's process: load the model, then turn the loop until the client is gone.

Signals: SIGINT and SIGTERM are ignored here, and blocked by the parent until they are. Terminals and service
managers send them to the whole group, and it is the parent that drains; it ends us by a message or by closing
the connection, so we also end when the parent dies, however it dies.

Threads: the main thread loads, then runs the loop; one thread reads the connection into the inbox, one tells
the client how the work comes on, also while the main thread hangs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback

from mosso.core.errors import EngineError, UsageError
from mosso.engine.early_device import EarlyDevice
from mosso.engine.messages import (
    HEADER,
    Beat,
    Failed,
    FromEngine,
    Load,
    Shutdown,
    ToEngine,
    decode,
    encode,
)
from mosso.engine.pulse import BEAT_SECONDS, Pulse

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "expandable_segments:True")
"""Steps of all sizes come in any order: on a GPU, memory that grows and shrinks in place does not fall to
pieces. In the environment, because torch reads it when it is imported."""

GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

SWITCH_SECONDS = 0.0005
"""How long a Python thread may keep the interpreter from another: the runner's thread must not wait the
default 5 ms for the loop's."""


class Connection:
    """Whole messages over a stream socket; blocking. Any thread sends, one receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._file = sock.makefile("rb")

    def send(self, message: FromEngine) -> None:
        """Blocks while the client's end is full: a client that does not read slows the engine down."""
        data = encode(message)
        with self._sending:
            self._sock.sendall(data)

    def receive(self) -> ToEngine | None:
        """The next message, None at the end of the connection."""
        try:
            header = self._file.read(HEADER.size)
            body = self._file.read(HEADER.unpack(header)[0]) if len(header) == HEADER.size else b""
        except OSError:
            return None
        return decode(body) if body else None  # type: ignore[return-value]


def serve(connection: Connection) -> int:
    """Run one engine over `connection`; the process's exit status."""
    load = connection.receive()
    if not isinstance(load, Load):
        return 0  # the client left before it began
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), name="inbox", daemon=True).start()
    try:
        early = EarlyDevice(load.settings)
        from mosso.engine.build import build_loop  # imports torch: only here, only now

        gc.enable()
        pulse = Pulse()
        loop, ready = build_loop(load.settings, inbox, connection.send, pulse)
        if ready.settings is None or ready.settings.device != "cuda":
            early.release()
        connection.send(ready)
        threading.Thread(target=_beat, args=(connection, pulse), name="pulse", daemon=True).start()
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector need not look through it while steps wait
        loop.run()
    except BrokenPipeError:
        return 0  # the client is gone, so nobody is left to tell
    except UsageError as error:
        connection.send(Failed(error))
        return 2
    except Exception as error:
        traceback.print_exc()
        connection.send(Failed(EngineError(f"the engine failed: {type(error).__name__}: {error}")))
        return 1
    return 0


def _read(connection: Connection, inbox: queue.SimpleQueue[ToEngine]) -> None:
    """Fill the inbox. The client's end ends this process at once, also amid a load or a hanging step."""
    while (message := connection.receive()) is not None and not isinstance(message, Shutdown):
        inbox.put(message)
    os._exit(0)


def _beat(connection: Connection, pulse: Pulse) -> None:
    """Until the client is gone."""
    with contextlib.suppress(OSError):
        while True:
            connection.send(Beat(*pulse.read()))
            time.sleep(BEAT_SECONDS)


def main() -> None:
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)  # those that waited are gone
    sys.setswitchinterval(SWITCH_SECONDS)
    os.environ.setdefault(*ALLOCATOR)
    os.environ.setdefault("OPENBLAS_MAIN_FREE", "1")  # else numpy sets and unsets it, while the driver reads
    gc.disable()  # until torch is there: it is large, and looked through in vain while it grows
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        status = serve(Connection(sock))
    sys.stderr.flush()
    os._exit(status)  # worker threads and device libraries have nothing to tear down that the system does not


if __name__ == "__main__":
    main()
