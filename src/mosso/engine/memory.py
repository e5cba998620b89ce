"""How many KV pages of both groups fit a given memory. Arithmetic only, no torch.

    bytes of a page = page_size · layers of its group · 2 (K and V) · kv_heads · head_dim · bytes an element

First come the window pages with which every row can always run, whatever the others do (`window_need` of
the memory plan): the window group alone never causes a preemption. The memory left is shared: one window page
more, for cached prefixes, with every CACHED_RATIO full pages, so that prefixes of about 1,200 tokens and
longer can stay hittable whole, for a ninth of the memory at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from mosso.core.config import ModelConfig
from mosso.core.errors import UsageError
from mosso.engine.settings import MIB, EngineSettings
from mosso.model.plan import CACHED_RATIO, ELEMENT_BYTES, window_need


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


def kv_budget(config: ModelConfig, settings: EngineSettings) -> KVBudget:
    """Divide `settings.kv_memory`. Raises UsageError that names the flag when it is too little."""
    page_size = settings.page_size
    layer_bytes = page_size * 2 * config.num_kv_heads * config.head_dim * ELEMENT_BYTES[settings.dtype_name]
    window_bytes = layer_bytes * sum(config.sliding)
    full_bytes = layer_bytes * (config.num_layers - sum(config.sliding))
    need = window_need(config.window, page_size, settings.max_rows, settings.token_budget)
    left = settings.kv_memory - need * window_bytes
    full_pages = max(0, left) * CACHED_RATIO // (full_bytes * CACHED_RATIO + window_bytes)
    asked = settings.max_context
    most = min(config.max_context, full_pages * page_size)
    if full_pages == 0 or (asked is not None and full_pages * page_size < asked):
        holds = f"holds {full_pages * page_size} tokens" if full_pages else "is all taken by the windows"
        wish = f"--max-context asks for {asked}" if asked else "one request must fit"
        raise UsageError(
            f"--kv-memory {settings.kv_memory / MIB:.0f} MiB {holds} "
            f"with --max-rows {settings.max_rows}, but {wish}"
        )
    if asked is not None and asked > config.max_context:
        raise UsageError(f"--max-context {asked} is over the model's own limit, {config.max_context}")
    return KVBudget(
        page_size=page_size,
        full_pages=full_pages,
        window_pages=need + full_pages // CACHED_RATIO,
        full_page_bytes=full_bytes,
        window_page_bytes=window_bytes,
        max_context=min(asked, most) if asked is not None else most,
    )
