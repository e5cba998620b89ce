"""`mosso serve`: the server that people's clients talk to."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from mosso.checkpoint.models import Model, find_model
from mosso.cli.access import access_options, open_tenants, take_access, warn_of_strangers
from mosso.cli.engine_options import engine_options, engine_settings
from mosso.cli.environment import FromEnvironment, without_meaning
from mosso.cli.operations import operations_of, operations_options
from mosso.cli.ranges import FiniteRange
from mosso.cli.tool_options import opened_tools, take_tools, tool_options
from mosso.core.errors import EngineError
from mosso.engine.settings import MIB

logger = logging.getLogger("mosso")


@click.command("serve", cls=FromEnvironment)
@click.argument("model", default="demo")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."
)
@click.option("--name", help="What the API calls the model; default: `demo` or the folder's name.")
@click.option("--alias", "aliases", multiple=True, help="Another name that the API takes; may be repeated.")
@engine_options
@click.option(
    "--reasoning-fields",
    type=click.Choice(["both", "reasoning", "reasoning_content", "none"]),
    default="both",
    show_default=True,
    help="Which fields of a message carry the thinking.",
)
@click.option(
    "--max-body", default=32, show_default=True, type=click.IntRange(min=1), help="MiB of one request."
)
@click.option(
    "--max-queue-seconds",
    default=20.0,
    show_default=True,
    type=FiniteRange(min=0),
    help="A request that would wait longer for its first token, by estimate, gets 429; 0: none waits.",
)
@click.option(
    "--drain",
    default=60.0,
    show_default=True,
    type=FiniteRange(min=0),
    help="Seconds for open streams at the end.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that keeps the responses of /v1/responses, files and batches beside it; default: one for the "
    "port, in the state folder.",
)
@click.option(
    "--store-days",
    default=30.0,
    show_default=True,
    type=FiniteRange(min=0, min_open=True),
    help="Responses are kept so long.",
)
@click.option(
    "--store-size",
    default=1024,
    show_default=True,
    type=click.IntRange(min=1),
    help="MiB of responses that are kept; the oldest go first.",
)
@access_options
@operations_options
@tool_options
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
)
def command(
    model: str, host: str, port: int, name: str | None, log_level: str, store: Path | None, **options: Any
) -> None:
    """Serve MODEL (default: the demo) behind an OpenAI-compatible API.

    Every flag is also a variable: --max-rows is MOSSO_MAX_ROWS. NIM's main variables are read too, such as
    NIM_SERVER_PORT, NIM_SERVED_MODEL_NAME and NIM_MAX_MODEL_LEN; a flag wins over MOSSO_*, that over NIM_*.

    SIGTERM or Ctrl-C drains: new requests are refused, streams in hand go on; a second signal leaves at once.
    """
    from mosso.server.logs import configure
    from mosso.server.run import run

    configure(log_level, options.pop("log_format"), prompts=options["log_prompts"])
    for variable in without_meaning():
        logger.warning("%s has no meaning here", variable)
    found = find_model(model)
    run(lambda: _serve(Model(name or found.name, found.folder), host, port, store, options))


async def _serve(model: Model, host: str, port: int, store: Path | None, options: dict[str, Any]) -> None:
    """Serve until a signal; raises EngineError when it was the engine's death that ended it."""
    from mosso.cli.serving import server_settings, serving
    from mosso.cli.stores import StoreLimits, open_batches, open_store
    from mosso.server.run import bind, leave_soon, serve_async, url_of

    operations = operations_of(options)
    access = take_access(options)
    flags = take_tools(options)
    limits = StoreLimits(options.pop("store_days"), options.pop("store_size") * MIB)
    server = server_settings(
        model,
        stuck_seconds=operations.stuck_after,
        aliases=options.pop("aliases"),
        reasoning_fields=options.pop("reasoning_fields"),
        max_body_bytes=options.pop("max_body") * MIB,
        max_queue_seconds=options.pop("max_queue_seconds"),
        drain_seconds=options.pop("drain"),
        open_metrics=access.open_metrics,
        cors_origins=access.cors_origins,
    )
    engine = engine_settings(model.folder, options)
    with ExitStack() as owned:
        sock = owned.enter_context(bind(host, port))  # before the model loads: a taken port is said at once
        url = url_of(sock, tls=access.tls is not None)
        warn_of_strangers(access, sock)
        kept, sealer = owned.enter_context(open_store(store, port, limits))
        tenants = owned.enter_context(open_tenants(access, store, port))
        async with (
            opened_tools(flags) as tools,
            serving(
                engine,
                server,
                store=kept,
                batch_store=owned.enter_context(open_batches(store, port)),
                sealer=sealer,
                tools=tools,
                tenants=tenants,
                restarts=operations.restarts,
                watchers=operations.watchers(model.name, owned),
            ) as (app, source),
        ):
            for note in source.notes:
                logger.info(note)
            await serve_async(
                app,
                sock,
                on_start=lambda: click.echo(f"mosso serves {model.name} at {url}"),
                tls=access.tls,
                on_force=lambda: leave_soon(1, seconds=1),
            )
            if not source.is_alive:
                raise EngineError("the engine died; the log says how")
    leave_soon(0)
