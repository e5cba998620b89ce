"""Worker processes end with the process that started them, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """The initializer of a pool: its workers would wait for work for ever once their parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "multiprocessing did not start this process"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
