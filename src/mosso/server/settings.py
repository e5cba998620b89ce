"""What the server is told once, when the app is made."""

from __future__ import annotations

from dataclasses import dataclass

from mosso.api.settings import ApiSettings


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Sizes in bytes, times in seconds."""

    api: ApiSettings
    max_body_bytes: int = 32 << 20
    open_metrics: bool = True  # /metrics asks for no key
    cors_origins: tuple[str, ...] = ()  # pages of which origins may call from a browser; "*": all
    thread_body_bytes: int = 16 << 10  # bodies from this size on are translated in a thread
    stuck_seconds: float = 8.0  # work waits and the engine has not moved for so long: it hangs
    stats_seconds: float = 2.0  # the engine must tell its state within this time
    max_queue_seconds: float = 20.0  # a request that would wait longer for its first token is refused
    drain_seconds: float = 60.0  # streams still open so long after SIGTERM are cut
