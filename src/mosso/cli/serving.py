"""One model behind one app: what `serve` and the commands that need a server of their own share."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

from fastapi import FastAPI

from mosso.api.batches_store import BatchStore
from mosso.api.responses_store import ResponseStore
from mosso.api.responses_toolset import Tools
from mosso.api.sealing import Sealer
from mosso.api.settings import ApiSettings, ModelFacts, ReasoningFields, SamplingDefaults
from mosso.checkpoint.models import Model
from mosso.checkpoint.reader import open_checkpoint
from mosso.cli.operations import Watchers
from mosso.core.errors import EngineError
from mosso.engine.messages import Progress
from mosso.engine.settings import EngineSettings
from mosso.engine.supervisor import RestartPolicy, Supervisor
from mosso.harmony.tokenizer import Tokenizer
from mosso.server.app import create_app
from mosso.server.run import bind, run, serve_async, url_of
from mosso.server.settings import ServerSettings
from mosso.server.tenants import Tenants

logger = logging.getLogger("mosso")


def server_settings(
    model: Model,
    *,
    aliases: Sequence[str] = (),
    reasoning_fields: ReasoningFields = "both",
    **options: Any,
) -> ServerSettings:
    """Names, sampling defaults and what is told of the model, as the checkpoint's folder gives them."""
    checkpoint = open_checkpoint(model.folder)
    checkpoint.close()  # its headers were all that is wanted here
    found = checkpoint.generation
    api = ApiSettings(
        model.name,
        aliases=tuple(dict.fromkeys(alias for alias in aliases if alias != model.name)),
        facts=ModelFacts(checkpoint.config, checkpoint.nbytes, checkpoint.experts_format.upper()),
        defaults=SamplingDefaults(temperature=found.temperature, top_p=found.top_p, top_k=found.top_k),
        reasoning_fields=reasoning_fields,
    )
    return ServerSettings(api, **options)


@asynccontextmanager
async def serving(
    engine: EngineSettings,
    server: ServerSettings,
    *,
    store: ResponseStore | None = None,
    batch_store: BatchStore | None = None,
    sealer: Sealer | None = None,
    tools: Tools | None = None,
    tenants: Tenants | None = None,
    restarts: RestartPolicy | None = None,
    watchers: Watchers = lambda source, tokenizer: (),
) -> AsyncIterator[tuple[FastAPI, Supervisor]]:
    """The app with its engine running; it ends with the block. If it dies for good, the app drains."""

    def lost(error: EngineError) -> None:
        logger.critical("%s", error.message)
        app.state.lifecycle.drain()

    def told(progress: Progress) -> None:
        logger.info(progress.stage)

    starting = asyncio.create_task(Supervisor.start(engine, told, lost, restarts))
    try:  # a large vocabulary takes a second or two, while the engine loads
        tokenizer = await asyncio.to_thread(Tokenizer.from_folder, engine.model)
    except BaseException:
        starting.cancel()
        (started,) = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(started, Supervisor):
            await started.close()
        raise
    source = await starting
    tokenizer = tokenizer.within(source.limits.max_context)
    app = create_app(
        source,
        tokenizer,
        server,
        store=store,
        batch_store=batch_store,
        sealer=sealer,
        tools=tools,
        tenants=tenants,
        watchers=watchers(source, tokenizer),
    )
    try:
        await app.state.responses.recover()
        await app.state.batches.resume()
        yield app, source
    finally:
        await app.state.batches.close()
        await source.close()


class LocalServer:
    """A server of this process's own, on a free loopback port, in a thread: for commands that use the API.

    A context manager; entering waits until it serves and raises what kept it from that.
    """

    def __init__(self, model: Model, engine: EngineSettings | None = None, **server: Any) -> None:
        """`server`: fields of ServerSettings."""
        self._engine = engine or EngineSettings(model.folder)
        self._settings = server_settings(model, drain_seconds=0.0, **server)
        self._thread = threading.Thread(target=self._run, name="local server", daemon=True)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._app: FastAPI | None = None
        self._error: BaseException | None = None
        self.url = ""
        self.notes: tuple[str, ...] = ()
        """Sentences about choices that the engine made."""

    def __enter__(self) -> LocalServer:
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._app is not None:
            self._loop.call_soon_threadsafe(self._app.state.lifecycle.drain)
        self._thread.join()

    def _run(self) -> None:
        try:
            run(self._serve)
        except BaseException as error:  # handed to the thread that waits in __enter__
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        with bind("127.0.0.1", 0) as sock:
            self.url = url_of(sock)
            async with serving(self._engine, self._settings) as (self._app, source):
                self.notes = source.notes
                await serve_async(self._app, sock, on_start=self._started.set)
