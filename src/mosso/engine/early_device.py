"""A CUDA context takes a third of a second to open, without Python: it opens while Python imports torch."""

from __future__ import annotations

import contextlib
import ctypes
import threading

from mosso.checkpoint.config import read_experts_format
from mosso.core.errors import MossoError
from mosso.engine.settings import EngineSettings


def open_device(settings: EngineSettings) -> None:
    """Begin to open the context that torch will use, if the engine is one for a GPU and there is one.

    Returns at once. Nothing depends on it: torch opens what is not open, and says what is wrong.
    """
    if _is_for_gpu(settings):
        threading.Thread(target=_open_context, name="context", daemon=True).start()


def _is_for_gpu(settings: EngineSettings) -> bool:
    """As engine.build decides once it knows that there is a device."""
    if settings.device != "auto":
        return settings.device == "cuda"
    if settings.dtype == "float32" or settings.experts == "expanded":
        return False
    with contextlib.suppress(MossoError):
        return read_experts_format(settings.model) == "mxfp4"
    return False


def _open_context() -> None:
    """The primary context of the first visible device, which lives as long as the process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
