"""`mosso bench engine`: prefill and decode of the engine alone."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mosso.cli.engine_options import engine_options, engine_settings
from mosso.cli.targets import TargetFile
from mosso.core.counting import counted
from mosso.core.errors import UsageError

if TYPE_CHECKING:
    from mosso.bench.engine import Drive, Shape
    from mosso.bench.floor import Floor
    from mosso.bench.inline import InlineEngine
    from mosso.bench.trace import Trace
    from mosso.core.config import ModelConfig
    from mosso.core.requests import EngineLimits
    from mosso.engine.settings import EngineSettings

FEWEST_ROWS = 64  # of the presets but latency on the CPU
PREFILL_PROMPTS = 64  # on CUDA; on the CPU as many as the largest batch
PROFILED_STEPS = 20
PROFILED_NAMES = 15
DECODE_HEAD = " batch   prompt   output    floor ms     step ms   share     mean ms      p99 ms        tok/s"
CONSTRAINT_HEAD = " batch   prompt   output     free ms constrained ms     more    half of pairs   steps"
PREFILL_HEAD = " prefill                floor tok/s       tok/s   share"


def numbers(_ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise click.BadParameter("must be whole numbers of at least 1, separated by commas", param=param)
    return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: every combination of the three lists, and prefill for each prompt length."""

    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    prefill: int | None  # prompts at once; None: as many as the device's default
    runs: int
    schema: dict[str, Any] | None = None  # what a constraint costs is measured with

    def shapes(self) -> list[Shape]:
        from mosso.bench.engine import Shape

        return [Shape(b, p, o) for p, o, b in product(self.prompts, self.outputs, self.batches)]

    def prefill_prompts(self, device: str) -> int:
        if self.prefill is not None:
            return self.prefill
        return PREFILL_PROMPTS if device == "cuda" else max(self.batches)


@click.command("engine")
@click.argument("model", default="demo")
@click.option("--batch", default="1,8,32", show_default=True, callback=numbers, help="Requests at once.")
@click.option("--prompt", default="128", show_default=True, callback=numbers, help="Tokens in.")
@click.option("--output", default="128", show_default=True, callback=numbers, help="Tokens out.")
@click.option(
    "--prefill-prompts", type=click.IntRange(min=0),
    help="Prompts at once that measure prefill; 0: none. Default: 64, on the CPU the largest batch.",
)  # fmt: skip
@click.option("--runs", default=1, show_default=True, type=click.IntRange(min=1), help="Take the median of.")
@click.option("--inline", is_flag=True, help="The engine in this process: its loop without a socket.")
@click.option(
    "--profile", type=TargetFile(),
    help="Write a trace of 20 decode steps of the last shape to this file (JSON); implies --inline.",
)  # fmt: skip
@click.option(
    "--constraint",
    metavar="json|FILE",
    help="Also what structured output costs, with records of this schema (json: one of ours).",
)
@engine_options
def command(
    model: str,
    batch: tuple[int, ...],
    prompt: tuple[int, ...],
    output: tuple[int, ...],
    prefill_prompts: int | None,
    runs: int,
    inline: bool,
    profile: Path | None,
    constraint: str | None,
    **options: Any,
) -> None:
    """The engine of MODEL without HTTP: decode steps and prefill apart, beside their floor.

    A decode step is the median of those in which all rows decode, prompt tokens a second are those from the
    first request to the last one's first token. The floor is the time to read from memory,
    once, every weight that a step touches, as the checkpoint stores it, and the KV cache; on a GPU also the
    time of its products. A model that fits the processor's cache can beat it. The prefix cache is off unless
    it is asked for.
    """
    settings = bench_settings(model, batch, options)
    plan = Plan(batch, prompt, output, prefill_prompts, runs, _schema(constraint))
    if profile is not None:
        require_cuda(settings.device, "--profile shows what a GPU does")
        if min(output) < 2 + PROFILED_STEPS * 2:
            raise UsageError(f"--profile needs --output of at least {2 + PROFILED_STEPS * 2}")
    asyncio.run(_run(model, settings, plan, inline or profile is not None, profile))


def bench_settings(
    model: str, batches: tuple[int, ...], options: dict[str, Any], flag: str = "--batch"
) -> EngineSettings:
    """The engine's flags; rows for the largest batch, and no prefix cache unless it is asked for.

    `flag` gave the batches.
    """
    from mosso.checkpoint.models import find_model

    folder = find_model(model).folder
    if options["max_rows"] is None and (max(batches) > FEWEST_ROWS or options["preset"] == "latency"):
        options["max_rows"] = max(batches)
    if options["prefix_cache"] is None:
        options["prefix_cache"] = False
    settings = engine_settings(folder, options)
    if settings.max_rows is not None and max(batches) > settings.max_rows:
        raise UsageError(f"--max-rows {settings.max_rows} is less than {flag} {max(batches)}")
    return settings


def require_cuda(device: str | None, why: str) -> None:
    """UsageError that begins with `why` where there is no GPU, or `device` is another."""
    from mosso.engine.process import ALLOCATOR

    os.environ.setdefault(*ALLOCATOR)  # before torch is imported: the engine may come to run in this process
    import torch

    if device == "cpu":
        raise UsageError(f"{why}, and --device says cpu")
    if not torch.cuda.is_available():
        raise UsageError(f"{why}: this machine has no CUDA device")


@dataclass(frozen=True, slots=True)
class Running:
    """An engine to measure, in a process of its own or in ours."""

    drive: Drive
    limits: EngineLimits
    settings: EngineSettings
    notes: tuple[str, ...]
    here: InlineEngine | None = None


@asynccontextmanager
async def running(settings: EngineSettings, *, inline: bool = False) -> AsyncIterator[Running]:
    if inline:
        from mosso.engine.process import ALLOCATOR

        os.environ.setdefault(*ALLOCATOR)  # before torch is imported
        from mosso.bench.inline import InlineEngine

        engine = InlineEngine(settings)
        yield Running(engine.drive, engine.limits, engine.settings or settings, engine.notes, engine)
        return
    from mosso.bench.engine import drive_source
    from mosso.engine.client import EngineClient

    client = await EngineClient.start(settings)
    try:
        yield Running(partial(drive_source, client), client.limits, client.settings or settings, client.notes)
    finally:
        await client.close()


def floor_of(settings: EngineSettings) -> Floor:
    """Of the model on the device that resolved `settings` name. On the CPU it measures the memory first."""
    from mosso.bench.floor import Floor, Rates, rates_here, read_bandwidth, stored_bytes
    from mosso.checkpoint.config import read_config, read_experts_format
    from mosso.model.plan import ELEMENT_BYTES

    stored = stored_bytes(read_experts_format(settings.model / "config.json"))
    rates = rates_here() if settings.device == "cuda" else Rates(read_bandwidth(settings.num_threads))
    return Floor(read_config(settings.model), stored, ELEMENT_BYTES[settings.kv_dtype_name], rates)


async def _run(model: str, settings: EngineSettings, plan: Plan, inline: bool, profile: Path | None) -> None:
    async with running(settings, inline=inline) as engine:
        if (longest := max(plan.prompts)) >= engine.limits.max_context:
            most = engine.limits.max_context
            raise UsageError(f"--prompt: {longest} tokens, and prompt and answer together can have {most}")
        for note in engine.notes:
            click.echo(note)
        floor = floor_of(engine.settings)
        print_floor(floor, engine.settings, plan)
        await warm_up(engine, floor.config, plan)
        decode, missing = await measure_decodes(engine, floor, plan)
        prefill = await measure_prefills(engine, floor, plan)
        constraint = await measure_constraints(engine, floor.config, plan)
        trace = _profile(engine, floor.config, plan, profile)
    from mosso.bench.provenance import provenance

    found = {"bench": "engine", "model": model, **provenance(), "inline": inline}
    rates = asdict(floor.rates)
    sizes = {
        name: getattr(engine.settings, name)
        for name in ("device", "preset", "kv_dtype_name", "max_rows", "token_budget", "prefill_budget")
    }
    click.echo(
        json.dumps(
            found | {"rates": rates, "settings": sizes, "kv_tokens": engine.limits.kv_tokens}
            | {"decode": decode, "prefill": prefill, "constraint": constraint, "profile": trace}
        )
    )  # fmt: skip
    if missing:
        raise UsageError(f"no figure for {counted(len(missing), 'shape')}; {missing[0]}")


def print_floor(floor: Floor, settings: EngineSettings, plan: Plan) -> None:
    reads = f"{floor.rates.bandwidth / 1e9:,.1f} GB/s"
    if floor.rates.operations:
        click.echo(f"floor: {reads}, {floor.rates.operations / 1e12:,.0f} TFLOP/s")
    else:
        click.echo(f"floor: {settings.num_threads} threads read {reads}")
    for shape in plan.shapes():
        least = floor.decode(shape.batch, shape.prompt + shape.output // 2)
        click.echo(f"floor: batch {shape.batch} at {shape.prompt} + {shape.output}: {1e3 * least:.3f} ms")
    for length in plan.prompts if plan.prefill != 0 else ():
        rate = floor.prefill_rate(length)
        if rate:
            click.echo(f"floor: prefill of {length} tokens each: {rate:,.0f} tok/s")


async def warm_up(engine: Running, config: ModelConfig, plan: Plan) -> None:
    """Thread pools, caches, kernels that compile when they are first used, for any number of tokens."""
    from mosso.bench.engine import Shape, make_requests

    largest = max(*plan.batches, plan.prefill_prompts(engine.settings.device))
    batch = largest if engine.settings.device == "cuda" else 1
    for prompt in plan.prompts:
        output = min(4, engine.limits.max_context - prompt)
        await engine.drive(tuple(make_requests(config, Shape(batch, prompt, output), seed=-1)))


def unfit(shape: Shape, limits: EngineLimits) -> str | None:
    """Why an engine with these limits cannot run the shape, in a sentence; None if it can."""
    if shape.tokens > limits.kv_tokens:
        return (
            f"batch {shape.batch} needs {shape.tokens:,} tokens of context, of which "
            f"{limits.kv_tokens:,} fit; give more --kv-memory or --gpu-memory"
        )
    if (one := shape.prompt + shape.output) > limits.max_context:
        return f"a request of {one:,} tokens in and out is more than the {limits.max_context:,} it can have"
    return None


async def measure_decodes(
    engine: Running, floor: Floor, plan: Plan
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row a shape, and a sentence for each shape that could not be measured: the others still count."""
    from mosso.bench.engine import measure_decode

    click.echo(DECODE_HEAD)
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for shape in plan.shapes():
        if (why := unfit(shape, engine.limits)) is not None:
            missing.append(why)
            continue
        try:
            found = await measure_decode(engine.drive, floor.config, shape, plan.runs)
        except UsageError as error:
            missing.append(error.message)
            continue
        least = floor.decode(shape.batch, shape.prompt + shape.output // 2)
        rows.append({**asdict(found), "floor": least, "share": least / found.step})
        click.echo(
            f"{shape.batch:6d} {shape.prompt:8d} {shape.output:8d} {1e3 * least:11.3f}"
            f" {1e3 * found.step:11.3f} {least / found.step:7.0%} {1e3 * found.mean:11.3f}"
            f" {1e3 * found.p99:11.3f} {found.rate:12,.1f}"
        )
    return rows, missing


async def measure_prefills(engine: Running, floor: Floor, plan: Plan) -> list[dict[str, Any]]:
    from mosso.bench.engine import measure_prefill

    count = plan.prefill_prompts(engine.settings.device)
    if not count:
        return []
    click.echo(PREFILL_HEAD)
    rows = []
    for length in plan.prompts:
        found = await measure_prefill(engine.drive, floor.config, count, length, plan.runs)
        most = floor.prefill_rate(length)
        rows.append({**asdict(found), "floor": most, "share": found.rate / most if most else None})
        click.echo(
            f"{f'{count} x {length} tokens':>22s} {f'{most:,.0f}' if most else '-':>12s}"
            f" {found.rate:11,.0f} {f'{found.rate / most:.0%}' if most else '-':>7s}"
        )
    return rows


async def measure_constraints(engine: Running, config: ModelConfig, plan: Plan) -> list[dict[str, Any]]:
    if plan.schema is None:
        return []
    from mosso.bench.constraint import measure_overhead

    click.echo(CONSTRAINT_HEAD)
    rows = []
    for shape in plan.shapes():
        if unfit(shape, engine.limits):
            continue
        found = await measure_overhead(engine.drive, config, shape, plan.schema, plan.runs)
        rows.append(asdict(found))
        half = " … ".join(f"{share:.1%}" for share in found.quartiles)
        click.echo(
            f"{shape.batch:6d} {shape.prompt:8d} {shape.output:8d} {1e3 * found.free:11.3f}"
            f" {1e3 * found.constrained:14.3f} {found.share:8.1%} {half:>16s} {found.steps:7d}"
        )
    return rows


def _schema(constraint: str | None) -> dict[str, Any] | None:
    if constraint is None or constraint == "json":
        from mosso.bench.constraint import RECORD

        return RECORD if constraint else None
    try:
        schema = json.loads(Path(constraint).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--constraint: {constraint} is not a file with a JSON schema: {error}") from error
    if not isinstance(schema, dict):
        raise UsageError(f"--constraint: the schema in {constraint} must be an object")
    return schema


def _profile(engine: Running, config: ModelConfig, plan: Plan, file: Path | None) -> dict[str, Any] | None:
    from mosso.bench.engine import make_requests

    if file is None or engine.here is None:
        return None
    shape = plan.shapes()[-1]
    trace = engine.here.profile(tuple(make_requests(config, shape, seed=-2)), file, PROFILED_STEPS)
    print_trace(trace, shape)
    return asdict(replace(trace, kernels=trace.kernels[:PROFILED_NAMES])) | {"gap": trace.gap}


def print_trace(trace: Trace, shape: Shape) -> None:
    click.echo(
        f"profile of batch {shape.batch}: a step takes {trace.step:,.1f} us; between two graphs "
        f"{trace.between:.1f} us, of which the GPU is idle {trace.idle:.1f} us: {trace.gap:.2%} of the step"
    )
    click.echo("us a step: exposed    running   times  kernel (exposed: what the timeline grew by)")
    for kernel in trace.kernels[:PROFILED_NAMES]:
        click.echo(f"{kernel.exposed:18.1f} {kernel.duration:10.1f} {kernel.count:7.1f}  {kernel.name}")
