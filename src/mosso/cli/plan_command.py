"""`mosso plan`: what a model needs in memory, by arithmetic alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from mosso.checkpoint.models import find_model
from mosso.cli.engine_options import MOST_BYTES
from mosso.cli.ranges import FiniteRange
from mosso.core.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig
from mosso.engine.settings import EngineSettings, Preset, preset_sizes

GIB = 1 << 30
DEVICE_MEMORY = 75_403 << 20  # the engine's default share, 0.93, of what an H100's driver gives to programs
PUBLISHED = {"20b": GPT_OSS_20B, "120b": GPT_OSS_120B}


@click.command("plan")
@click.argument("model")
@click.option(
    "--memory",
    type=FiniteRange(min=0, min_open=True, max=MOST_BYTES / GIB),
    help="GiB that may be taken; default: 0.93 of an 80 GB GPU for cuda, this machine's for cpu.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), help="Default: bfloat16 on cuda, float32 on cpu."
)
@click.option("--experts", type=click.Choice(["packed", "expanded"]), help="Default: packed, as stored.")
@click.option("--kv-dtype", type=click.Choice(["bfloat16", "float8"]), help="Default: --dtype.")
@click.option("--page-size", default=16, show_default=True, type=int)
@click.option("--preset", type=click.Choice(get_args(Preset)), default="balanced", show_default=True)
@click.option("--token-budget", type=int, help="Default: the preset's.")
@click.option("--max-rows", type=int, help="Default: the preset's.")
def command(model: str, memory: float | None, preset: Preset, **options: Any) -> None:
    """Show the bytes of MODEL's weights by kind, of KV and activations, and how many tokens fit.

    MODEL: demo, 20b or 120b (nothing needs to be downloaded), a checkpoint folder, a config.json, or the hub
    id of a model that was pulled. Ends with status 1 where not one token fits.
    """
    from mosso.checkpoint.schema import total_bytes
    from mosso.model.plan import format_plan, plan_memory

    given = {name: value for name, value in options.items() if value is not None}
    EngineSettings(Path(model), preset=preset, **given)  # refuses what serve would refuse
    found = shape_of(model)
    stored = total_bytes(found.config, found.experts_format)
    limit = int(memory * GIB) if memory is not None else default_memory(options["device"])
    sizes = preset_sizes(preset, options["device"], stored, limit)
    for name in ("token_budget", "max_rows"):
        if options[name] is None:
            options[name] = getattr(sizes, name)
    plan = plan_memory(found.config, experts_format=found.experts_format, memory=limit, **options)
    click.echo(format_plan(plan))
    if memory is None and options["device"] == "cuda":
        click.echo("on a GPU of 80 GB; --memory plans for another, --device cpu for this machine")
    if not plan.kv_tokens:
        raise SystemExit(1)


def default_memory(device: str) -> int:
    """Bytes: a plan for a GPU is often made where there is none, so it assumes the usual one."""
    if device == "cuda":
        return DEVICE_MEMORY
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, slots=True)
class Shape:
    config: ModelConfig
    experts_format: Any  # "mxfp4" | "bf16"


def shape_of(model: str) -> Shape:
    """The model's numbers, from constants, a bare config.json, or a whole checkpoint's headers."""
    from mosso.checkpoint import open_checkpoint
    from mosso.checkpoint.config import read_config, read_experts_format

    published = model.lower().removeprefix("openai/").removeprefix("gpt-oss-")
    if published in PUBLISHED:
        return Shape(PUBLISHED[published], "mxfp4")
    path = Path(model).expanduser()
    if path.is_file() and path.suffix == ".json":
        return Shape(read_config(path), read_experts_format(path))
    with open_checkpoint(find_model(model).folder) as checkpoint:
        return Shape(checkpoint.config, checkpoint.experts_format)
