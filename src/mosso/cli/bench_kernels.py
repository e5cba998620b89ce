"""`mosso bench kernels`: each GPU kernel against its own floor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mosso.cli.bench_engine import require_cuda
from mosso.core.counting import counted
from mosso.core.errors import UsageError

if TYPE_CHECKING:
    from mosso.bench.kernels.timing import Timed

NAME_WIDTH = 64


def pattern(_ctx: click.Context, param: click.Parameter, value: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(value) if value is not None else None
    except re.error as error:
        raise click.BadParameter(f"is no regular expression: {error}", param=param) from error


@click.command("kernels")
@click.option("--only", callback=pattern, metavar="PATTERN", help="Cases whose name has this expression.")
@click.option("--sweep", is_flag=True, help="Vary the kernels' choices instead: tiles, stages, warps.")
def command(only: re.Pattern[str] | None, sweep: bool) -> None:
    """The GPU kernels alone, at the shapes of gpt-oss: microseconds beside the floor of each.

    A case is one CUDA graph, replayed 31 times with an L2 cache that holds nothing of it; the median counts.
    """
    require_cuda(None, "bench kernels measures GPU kernels")
    import torch

    from mosso.bench.kernels.timing import GpuTimer, all_cases, run_cases
    from mosso.bench.provenance import provenance

    timer = GpuTimer()
    click.echo(f"{torch.cuda.get_device_name()}: a run of nothing takes {1e6 * timer.floor():.1f} us")
    chosen = (case for case in all_cases(sweep=sweep) if only is None or only.search(case.name))
    rows = print_rows(run_cases(chosen, timer.prepare, timer.measure, torch.cuda.memory_allocated))
    if not rows:
        raise UsageError("--only: no case has such a name")
    found = {"bench": "kernels", **provenance(), "sweep": sweep}
    click.echo(json.dumps(found | {"rows": [asdict(row) | {"share": row.share} for row in rows]}))
    failed = [row for row in rows if row.error]
    if failed and not sweep:
        raise UsageError(
            f"{counted(len(failed), 'case')} failed; the first: {failed[0].name}: {failed[0].error}"
        )


def print_rows(rows: Iterable[Timed]) -> list[Timed]:
    click.echo(f"{'case':{NAME_WIDTH}s}         us   floor us   share")
    printed = []
    for row in rows:
        printed.append(row)
        if row.seconds is None or row.share is None:
            click.echo(f"{row.name:{NAME_WIDTH}s} failed: {row.error}")
            continue
        how = "" if row.graph else "  no graph: with the host's launches"
        click.echo(
            f"{row.name:{NAME_WIDTH}s} {1e6 * row.seconds:10.1f} {1e6 * row.floor:10.1f}"
            f" {row.share:7.0%}{how}"
        )
    return printed
