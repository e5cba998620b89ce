"""`mosso bench accuracy`: how far the GPU path is from float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mosso.cli.bench_engine import numbers, require_cuda
from mosso.core.errors import UsageError

WIDTH = 62
COLUMNS = (
    ("rms", "rms", "{:.5f}"),
    ("worst", "worst", "{:.5f}"),
    ("bfloat16_rms", "bf16 rms", "{:.5f}"),
    ("bfloat16_worst", "bf16 worst", "{:.5f}"),
    ("same_argmax", "argmax", "{:.3f}"),
    ("equal_bits", "bits", "{}"),
)


@click.command("accuracy")
@click.argument("model")
@click.option(
    "--length", callback=lambda ctx, param, value: numbers(ctx, param, value) if value else None,
    help="Prompt lengths, separated by commas; default: 1,127,128,129,4097,20000.",
)  # fmt: skip
@click.option(
    "--transformers", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkpoint of a few layers, for greedy tokens against transformers' gpt-oss.",
)  # fmt: skip
def command(model: str, length: tuple[int, ...] | None, transformers: Path | None) -> None:
    """The GPU path's logits of MODEL against the plain forward pass in float32 on the same GPU.

    Beside each error is that of the plain pass in bfloat16: the bar. Then chunks, batches and 8-bit keys
    and values. The weights lie in memory three times, so a model of a few layers (mosso random --layers 4)
    serves as well as a whole one.
    """
    from mosso.checkpoint.models import find_model

    folder = find_model(model).folder
    require_cuda(None, "bench accuracy measures the GPU path")
    from mosso.bench.accuracy import LENGTHS, against_transformers, measure  # imports Triton
    from mosso.bench.provenance import provenance

    click.echo(f"{'':{WIDTH}s}" + "".join(f"{title:>12s}" for _, title, _ in COLUMNS))
    rows = []
    for row in measure(folder, length or LENGTHS):
        rows.append(row)
        click.echo(line(row))
    if transformers is not None:
        rows.append(against_transformers(transformers))
        click.echo(line(rows[-1]))
    click.echo(json.dumps({"bench": "accuracy", "model": model, **provenance(), "rows": rows}))
    outside = failures(rows)
    if outside:
        raise UsageError(f"{len(outside)} of {len(rows)} fail, the first: {outside[0]}")


def line(row: Mapping[str, Any]) -> str:
    cells = (form.format(row[name]) if name in row else "" for name, _, form in COLUMNS)
    rest = {name: value for name, value in row.items() if name not in {each for each, _, _ in COLUMNS}}
    more = ", ".join(
        f"{name} {value:.5f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in rest.items()
        if name != "what"
    )
    return (
        f"{row['what']:{WIDTH}s}" + "".join(f"{cell:>12s}" for cell in cells) + (f"  {more}" if more else "")
    )


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Rows outside bfloat16's own error, rows that are no numbers, and deterministic ones that differ."""
    found = []
    for row in rows:
        errors = [value for name, value in row.items() if name.endswith(("rms", "worst"))]
        if any(error != error for error in errors):
            found.append(f"{row['what']}: NaN")
        elif row.get("within") is False:
            found.append(
                f"{row['what']}: {row['rms']:.5f}, bfloat16's own error is {row['bfloat16_rms']:.5f}"
            )
        elif "deterministic" in row["what"] and row.get("equal_bits") is False:
            found.append(f"{row['what']}: other bits")
    return found
