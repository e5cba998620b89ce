"""The ASGI app: parts are made here, once, and handed to the routes."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import mosso
from mosso.api.batches import BatchService
from mosso.api.batches_schema import BatchRequest
from mosso.api.batches_store import BatchStore
from mosso.api.chat_schema import ChatCompletionChunk, ChatRequest
from mosso.api.completion_schema import Completion, CompletionRequest
from mosso.api.files import FileService
from mosso.api.messages_schema import CountTokensRequest, MessagesEvent, MessagesRequest
from mosso.api.ollama_schema import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaPullRequest,
    OllamaShowRequest,
)
from mosso.api.responses_schema import ResponseEvent, ResponsesRequest
from mosso.api.responses_store import ResponseStore
from mosso.api.responses_toolset import Tools
from mosso.api.sealing import Sealer
from mosso.api.services import Services, Tokenizer
from mosso.api.text import DetokenizeRequest, TokenizeRequest
from mosso.core.source import TokenSource
from mosso.server import faults, openapi, playground
from mosso.server.admission import Admission
from mosso.server.allowances import RATE_HEADERS
from mosso.server.batch_store import SqliteBatchStore
from mosso.server.context import Context
from mosso.server.gate import METRICS, OPEN, KeyGate
from mosso.server.head import HeadAsGet
from mosso.server.lifecycle import Lifecycle
from mosso.server.metrics import Metrics
from mosso.server.middleware import RequestContext
from mosso.server.routes import (
    batches,
    files,
    generation,
    health,
    messages,
    models,
    nim,
    ollama,
    responses,
    service,
    text,
)
from mosso.server.settings import ServerSettings
from mosso.server.sqlite_store import SqliteStore
from mosso.server.tenants import MeteredSource, Tenants
from mosso.server.watching import WatchedSource, Watcher, Watching

EXPOSED = ("x-request-id", "retry-after", *RATE_HEADERS)
_BODIES = (
    ChatRequest,
    CompletionRequest,
    TokenizeRequest,
    DetokenizeRequest,
    ResponsesRequest,
    CountTokensRequest,
    MessagesRequest,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaShowRequest,
    OllamaPullRequest,
    BatchRequest,
)

_EVENTS = (ChatCompletionChunk, Completion, ResponseEvent, MessagesEvent)


def create_app(
    source: TokenSource,
    tokenizer: Tokenizer,
    settings: ServerSettings,
    *,
    store: ResponseStore | None = None,
    batch_store: BatchStore | None = None,
    sealer: Sealer | None = None,
    tenants: Tenants | None = None,
    tools: Tools | None = None,
    watchers: Sequence[Watcher] = (),
) -> FastAPI:
    """The app over `source`, the stores and `tools`, which stay the caller's: it neither starts nor closes
    them.

    Without stores responses, files and batches end with the app; without a sealer nobody can open what this
    app sealed once it is gone. Without tenants nobody needs a key. `watchers` are told of each request that
    generates.

    It may be served before the source is ready: requests then get 503, and /v1/health/ready tells.
    """
    admission = Admission(source, settings.max_queue_seconds)
    source = admission
    if tenants is not None:
        source = MeteredSource(source, tenants)
    if watchers:
        source = WatchedSource(source)
    metrics = Metrics(settings.api.model)
    context = Context(
        source=source,
        settings=settings,
        lifecycle=Lifecycle(settings.drain_seconds),
        metrics=metrics,
        api=Services(
            source,
            tokenizer,
            settings.api,
            metrics,
            store=store or SqliteStore(now=settings.api.now),
            sealer=sealer,
            tools=tools,
        ),
        admission=admission,
    )
    app = FastAPI(title="mosso", version=mosso.__version__, docs_url=None, redoc_url=None)
    app.state.lifecycle = context.lifecycle
    app.state.responses = context.api.responses
    for part in (generation, responses, messages, models, text, health, nim, ollama, service):
        app.include_router(part.router(context))
    kept = batch_store or SqliteBatchStore(now=settings.api.now)
    app.state.batches = BatchService(kept, context.api.endpoints, source, settings.api)
    app.include_router(batches.router(context, app.state.batches))
    app.include_router(files.router(context, FileService(kept, settings.api)))
    app.mount(playground.PREFIX, playground.PlaygroundFiles())
    open_paths: frozenset[str] | None = None
    if tenants is not None:
        open_paths = OPEN | METRICS if settings.open_metrics else OPEN
        app.add_middleware(KeyGate, tenants=tenants, open_paths=open_paths)
    openapi.install(app, *_BODIES, *_EVENTS, open_paths=open_paths)
    app.add_middleware(HeadAsGet)
    if watchers:
        app.add_middleware(Watching, watchers=watchers)
    app.add_middleware(RequestContext, metrics=metrics)
    if settings.cors_origins:  # outermost: a browser's preflight shows no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    faults.install(app)
    return app
