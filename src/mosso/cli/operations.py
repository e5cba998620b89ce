"""The flags of `mosso serve` that are about running it: restarts, probes, logs, traces, capsules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from mosso.engine.supervisor import RestartPolicy

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = RestartPolicy()

_OPTIONS = (
    click.option(
        "--restarts", type=click.IntRange(min=0), default=_DEFAULTS.restarts, show_default=True,
        help="Deaths of the engine within two minutes that are mended; one more ends the server.",
    ),
    click.option(
        "--stuck-after", metavar="SECONDS", type=click.FloatRange(min=1), default=8.0, show_default=True,
        help="Liveness turns bad when work waits and the engine has not moved for so long.",
    ),
    click.option(
        "--kill-stuck-after", metavar="SECONDS", type=click.FloatRange(min=0),
        default=_DEFAULTS.stalled, show_default=True,
        help="Such an engine is killed and started again after so long; 0: never.",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operations:
    """What those flags say."""

    restarts: RestartPolicy
    stuck_after: float


def operations_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def operations_of(options: dict[str, Any]) -> Operations:
    """Takes its flags out of `options`."""
    return Operations(
        RestartPolicy(restarts=options.pop("restarts"), stalled=options.pop("kill_stuck_after") or None),
        stuck_after=options.pop("stuck_after"),
    )
