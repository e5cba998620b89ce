"""A CUDA context takes a third of a second to open, without Python: it opens while Python imports torch."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import Any

from mosso.checkpoint.config import read_experts_format
from mosso.core.errors import MossoError
from mosso.engine.settings import EngineSettings


class EarlyDevice:
    """The context that torch will use, opened by a thread if the engine seems to be one for a GPU.

    Nothing depends on it: torch opens what is not open, and says what is wrong.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Returns at once."""
        self._driver: Any = None
        self._device = ctypes.c_int()
        self._thread: threading.Thread | None = None
        if _is_for_gpu(settings):
            self._thread = threading.Thread(target=self._open, name="context", daemon=True)
            self._thread.start()

    def release(self) -> None:
        """For an engine that came to be one for the CPU: a context takes memory of the device."""
        if self._thread is not None:
            self._thread.join()
        if self._driver is not None:
            self._driver.cuDevicePrimaryCtxRelease_v2(self._device)
            self._driver = None

    def _open(self) -> None:
        """The primary context of the first visible device, which lasts as long as the process."""
        try:
            driver = ctypes.CDLL("libcuda.so.1")
        except OSError:
            return
        context = ctypes.c_void_p()
        if (
            driver.cuInit(0) == 0
            and driver.cuDeviceGet(ctypes.byref(self._device), 0) == 0
            and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), self._device) == 0
        ):
            self._driver = driver


def _is_for_gpu(settings: EngineSettings) -> bool:
    """As engine.build decides once it knows that there is a device."""
    if settings.device == "cuda":
        return True
    with contextlib.suppress(MossoError):
        return settings.suits_cuda and read_experts_format(settings.model) == "mxfp4"
    return False
