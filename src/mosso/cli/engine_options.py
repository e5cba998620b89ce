"""The flags of an engine, shared by the commands that start one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from mosso.cli.ranges import FiniteRange
from mosso.engine.settings import MIB, Device, Dtype, EngineSettings, Experts, KVDtype, Preset

F = TypeVar("F", bound=Callable[..., Any])

MOST_BYTES = 1 << 60  # that anybody has
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(?:([KMGT])i?B?)?", re.IGNORECASE)


def memory(_ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A share of the device's memory such as 0.93, or bytes such as 16GiB (units are binary)."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value.strip())
    size = float(match[1]) * _UNITS[(match[2] or "").upper()] if match else 0.0
    # 93 is no share, and no bytes that anybody means
    if not (0 < size <= 1 or MIB <= size <= MOST_BYTES):
        raise click.BadParameter("give a share such as 0.93, or bytes such as 16GiB", param=param)
    return size


def _choice(kind: Any) -> click.Choice[str]:
    return click.Choice(get_args(kind))


_AT_LEAST_1 = click.IntRange(min=1)
_BRIEF = (
    click.option("--device", type=_choice(Device), help="Default: auto, CUDA where there is such a device."),
    click.option(
        "--preset", type=_choice(Preset),
        help="Sets --token-budget, --prefill-budget and --max-rows; default: balanced.",
    ),
    click.option(
        "--gpu-memory", metavar="SHARE|BYTES", callback=memory,
        help="All that may be taken on the GPU: a share, or bytes such as 16GiB; default: 0.93.",
    ),
)  # fmt: skip
_MORE = (
    click.option("--dtype", type=_choice(Dtype), help="Default: auto, float32 on the CPU, bfloat16 on CUDA."),
    click.option("--kv-dtype", type=_choice(KVDtype), help="Of keys and values; float8: GPUs from sm_89 on."),
    click.option(
        "--experts", type=_choice(Experts),
        help="MXFP4 as stored, or expanded to --dtype; auto: as stored wherever a kernel reads it.",
    ),
    click.option("--max-context", type=click.IntRange(min=2), help="Most tokens of one request, in and out."),
    click.option("--max-rows", type=_AT_LEAST_1, help="Requests at once."),
    click.option(
        "--max-slowdown", type=FiniteRange(min=1),
        help="So many requests run at once that none is slower than alone by more than this factor, by what "
        "steps were measured to take; default: as many as --max-rows.",
    ),
    click.option(
        "--background-rows", type=click.IntRange(min=0),
        help="Requests of batches and the like that run beside others; default: an eighth of --max-rows.",
    ),
    click.option("--max-waiting", type=_AT_LEAST_1, help="Queue length; default: 1024."),
    click.option("--token-budget", type=_AT_LEAST_1, help="Tokens a step."),
    click.option("--prefill-budget", type=_AT_LEAST_1, help="Of these, prompt tokens beside answers."),
    click.option(
        "--kv-memory", type=_AT_LEAST_1,
        help="MiB of KV cache; default: 1024 on the CPU, what --gpu-memory leaves on CUDA.",
    ),
    click.option("--page-size", type=int, help="Tokens in one KV page; default: 16."),
    click.option("--threads", type=_AT_LEAST_1, help="CPU threads; default: the physical cores."),
    click.option("--prefix-cache/--no-prefix-cache", default=None, help="Default: on."),
    click.option(
        "--deterministic/--no-deterministic", default=None,
        help="On CUDA: answers that do not depend on what shares a batch, more slowly.",
    ),
)  # fmt: skip
NAMES = frozenset(EngineSettings.__slots__) - {"model", "check"}


def brief_engine_options(function: F) -> F:
    """--device, --preset, --gpu-memory."""
    return _decorate(function, _BRIEF)


def engine_options(function: F) -> F:
    """Every setting of the engine."""
    return _decorate(function, (*_BRIEF, *_MORE))


def _decorate(function: F, options: tuple[Callable[[F], F], ...]) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def engine_settings(folder: Path, options: dict[str, Any]) -> EngineSettings:
    """Takes the engine's flags out of `options`; those that were not given have their defaults."""
    given = {name: options.pop(name) for name in NAMES & options.keys()}
    given = {name: value for name, value in given.items() if value is not None}
    if "kv_memory" in given:
        given["kv_memory"] *= MIB
    return EngineSettings(folder, **given)
