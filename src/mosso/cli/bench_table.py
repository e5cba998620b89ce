"""`mosso bench table`: decode, prefill and KV tokens of a model beside their bars, in one run."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mosso.cli import bench_engine
from mosso.cli.bench_engine import Plan
from mosso.cli.engine_options import engine_options
from mosso.cli.targets import TargetFile
from mosso.core.counting import counted
from mosso.core.errors import UsageError

if TYPE_CHECKING:
    from mosso.bench.bars import Bars
    from mosso.bench.table import Figures
    from mosso.engine.settings import EngineSettings


@click.command("table")
@click.argument("model")
@click.option(
    "--out", type=TargetFile(),
    help="Write the table to this file too (Markdown); it is printed in any case.",
)  # fmt: skip
@click.option("--runs", default=1, show_default=True, type=click.IntRange(min=1), help="Take the median of.")
@engine_options
def command(model: str, out: Path | None, runs: int, **options: Any) -> None:
    """Decode, prefill and KV tokens of MODEL beside its bars on an H100; gpt-oss-20b or 120b, by its shape.

    All batches run on one engine, with --preset throughput unless another is given. The prefix cache is off.
    """
    from mosso.bench.bars import bars_for
    from mosso.checkpoint.config import read_config
    from mosso.checkpoint.models import find_model

    bars = bars_for(read_config(find_model(model).folder))
    bench_engine.require_cuda(options["device"], "bench table holds a GPU to its bars")
    options["preset"] = options["preset"] or "throughput"
    settings = bench_engine.bench_settings(model, tuple(bars.decode), options)
    missing = asyncio.run(tabulate(model, settings, bars, out, runs))
    if missing:
        raise UsageError(f"no figure for {counted(len(missing), 'batch', 'batches')}; {missing[0]}")


async def tabulate(
    model: str, settings: EngineSettings, bars: Bars, out: Path | None, runs: int = 1
) -> list[str]:
    """Measures, prints, writes; → a sentence for each batch without a figure, which the table shows too."""
    from mosso.bench.provenance import provenance
    from mosso.bench.table import render, rows_of

    plan = Plan(tuple(bars.decode), (bars.prompt,), (bars.output,), bench_engine.PREFILL_PROMPTS, runs)
    figures, missing = await measure(settings, plan)
    origin = provenance()
    text = render(bars, figures, origin)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    click.echo(text)
    rows = [asdict(row) | {"met": row.met} for row in rows_of(bars, figures)]
    click.echo(json.dumps({"bench": "table", "model": model, **origin, "runs": runs, "rows": rows}))
    return missing


async def measure(settings: EngineSettings, plan: Plan) -> tuple[Figures, list[str]]:
    """→ (figures, a sentence for each batch without one)."""
    from mosso.bench.table import Figures

    async with bench_engine.running(settings) as engine:
        for note in engine.notes:
            click.echo(note)
        floor = bench_engine.floor_of(engine.settings)
        bench_engine.print_floor(floor, engine.settings, plan)
        await bench_engine.warm_up(engine, floor.config, plan)
        decode, missing = await bench_engine.measure_decodes(engine, floor, plan)
        (prefill,) = await bench_engine.measure_prefills(engine, floor, plan)
    (prompt,), (output,) = plan.prompts, plan.outputs
    floors = {batch: floor.decode(batch, prompt + output // 2) for batch in plan.batches}
    return Figures(
        floors=floors,
        steps={row["batch"]: row["step"] for row in decode},
        most_prefill=prefill["floor"],
        prefill=prefill["rate"],
        kv_tokens=engine.limits.kv_tokens,
        notes=(
            *engine.notes,
            f"prefill: {prefill['prompts']} prompts at once, from the first to the last token",
        ),
    ), missing
