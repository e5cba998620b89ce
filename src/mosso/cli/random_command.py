"""`mosso random`: a checkpoint with the published layout and random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from mosso.core.counting import counted


@click.command("random")
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("size", type=click.Choice(["20b", "120b", "tiny"]))
@click.option("--seed", default=0, show_default=True)
@click.option("--layers", type=click.IntRange(min=1), help="Fewer layers than the model has.")
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that OUT holds.")
def command(
    out: Path, size: Literal["20b", "120b", "tiny"], seed: int, layers: int | None, overwrite: bool
) -> None:
    """Write a checkpoint of SIZE with random weights and a toy tokenizer to the folder OUT.

    The weights mean nothing; sizes, layout and routing are those of the real models, which is what tests and
    benchmarks need.
    """
    from mosso.checkpoint.layout import check_free

    if not overwrite:
        check_free(out)  # before seconds go by in which torch is imported
    from mosso.checkpoint.random_weights import config_of, write_random

    config = config_of(size, layers)
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("writing", total=None)
        write_random(
            out,
            config,
            seed=seed,
            overwrite=overwrite,
            report=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    click.echo(f"wrote {size} of {counted(config.num_layers, 'layer')} with random weights to {out}")
