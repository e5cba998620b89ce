"""How many KV pages of both groups the engine gets. Arithmetic only, no torch; see model.kv_pages."""

from __future__ import annotations

from dataclasses import dataclass

from mosso.core.config import ModelConfig
from mosso.core.errors import UsageError
from mosso.engine.settings import MIB, EngineSettings
from mosso.model.kv_pages import divide, most_pages, window_need
from mosso.model.plan import ELEMENT_BYTES


@dataclass(frozen=True, slots=True)
class KVBudget:
    """Page counts of both groups and the longest request they let run."""

    page_size: int
    full_pages: int
    window_pages: int
    full_page_bytes: int
    window_page_bytes: int
    max_context: int

    @property
    def full_tokens(self) -> int:
        return self.full_pages * self.page_size

    @property
    def total_bytes(self) -> int:
        return self.full_pages * self.full_page_bytes + self.window_pages * self.window_page_bytes


def kv_page_bytes(config: ModelConfig, settings: EngineSettings) -> tuple[int, int]:
    """Bytes of one page over all layers of its group: (full, window)."""
    element = ELEMENT_BYTES[settings.kv_dtype_name]
    layer = settings.page_size * 2 * config.num_kv_heads * config.head_dim * element
    sliding = sum(config.sliding)
    return layer * (config.num_layers - sliding), layer * sliding


def kv_budget(config: ModelConfig, settings: EngineSettings, left: int | None = None) -> KVBudget:
    """Divide settings.kv_memory, or what is `left` of the device's memory if that is less.

    Raises UsageError that names the flag when it is too little. Settings must be resolved.
    """
    flag, memory = "--kv-memory", settings.kv_memory
    if memory is None or (left is not None and left < memory):
        assert left is not None, "without kv_memory the device must say what is left"
        flag, memory = "--gpu-memory leaves too little:", left
    page_size, asked = settings.page_size, settings.max_context
    full_bytes, window_bytes = kv_page_bytes(config, settings)
    need = window_need(config.window, page_size, settings.rows, settings.budget)
    pages = divide(memory, full_bytes, window_bytes, need, most_pages(page_size, config.head_dim))
    most = min(config.max_context, pages.full * page_size)
    if pages.full == 0 or (asked is not None and pages.full * page_size < asked):
        holds = f"holds {pages.full * page_size} tokens" if pages.full else "is all taken by the windows"
        wish = f"--max-context asks for {asked}" if asked else "one request must fit"
        raise UsageError(
            f"{flag} {max(0, memory) / MIB:.0f} MiB {holds} with --max-rows {settings.rows}, but {wish}"
        )
    if asked is not None and asked > config.max_context:
        raise UsageError(f"--max-context {asked} is over the model's own limit, {config.max_context}")
    return KVBudget(
        page_size=page_size,
        full_pages=pages.full,
        window_pages=pages.window,
        full_page_bytes=full_bytes,
        window_page_bytes=window_bytes,
        max_context=min(asked, most) if asked is not None else most,
    )
