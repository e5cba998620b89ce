"""The real server on a real socket, whose model says what a test scripts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mosso_fakes import SETTINGS, ScriptedSource, harmony, small_tokenizer

from mosso.api.responses_toolset import Tools
from mosso.server.app import create_app
from mosso.server.run import serve
from mosso.server.settings import ServerSettings
from mosso.server.tenants import Tenants

TOKENIZER = small_tokenizer()


@contextmanager
def scripted(
    script: Callable[[Any], str] | str,
    *,
    tools: Tools | None = None,
    tenants: Tenants | None = None,
    **settings: Any,
) -> Iterator[tuple[str, ScriptedSource]]:
    """A server that says the Harmony text `script` (or what it gives for a request)."""
    say = script if callable(script) else lambda request: script
    source = ScriptedSource(lambda request: harmony(TOKENIZER, say(request)))
    source.batch = 8
    served = ServerSettings(api=SETTINGS, drain_seconds=1.0, **settings)
    app = create_app(source, TOKENIZER, served, tools=tools, tenants=tenants)
    started, urls = threading.Event(), []

    def tell(url: str) -> None:
        urls.append(url)
        started.set()

    thread = threading.Thread(target=serve, args=(app,), kwargs={"port": 0, "on_start": tell}, daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield urls[0].rstrip("/"), source
    finally:
        app.state.lifecycle.drain()
        thread.join(60)
