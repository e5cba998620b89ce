"""Worker processes end with the process that started them, however that ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """The initializer of a pool: its workers would wait for work for ever once their parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "multiprocessing did not start this process"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def end_with(parent: int) -> None:
    """The same for a process that multiprocessing did not start, on Linux.

    It is killed when the thread that started it ends, as one does that is killed.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        sys.exit("the process that started this one has ended")
