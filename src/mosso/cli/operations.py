"""The flags of `mosso serve` that are about running it: restarts, probes, logs, traces, capsules."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import mosso
from mosso.cli.ranges import FiniteRange
from mosso.core.errors import UsageError
from mosso.engine.supervisor import RestartPolicy, Supervisor

if TYPE_CHECKING:  # heavy, and not needed to print the help
    from mosso.harmony.tokenizer import Tokenizer
    from mosso.server.capsules import Which
    from mosso.server.tracing import Tracing
    from mosso.server.watching import Watcher

F = TypeVar("F", bound=Callable[..., Any])
Watchers = Callable[[Supervisor, "Tokenizer"], "Sequence[Watcher]"]
"""Makes those who watch the requests, once the engine and its vocabulary are there."""

_DEFAULTS = RestartPolicy()
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PACKAGES = ("torch", "triton", "tokenizers", "llguidance")  # whose versions may change an answer
logger = logging.getLogger("mosso")

_OPTIONS = (
    click.option(
        "--restarts", type=click.IntRange(min=0), default=_DEFAULTS.restarts, show_default=True,
        help="Deaths of the engine within two minutes that are mended; one more ends the server.",
    ),
    click.option(
        "--stuck-after", metavar="SECONDS", type=FiniteRange(min=1), default=8.0, show_default=True,
        help="Liveness turns bad when work waits and the engine has not moved for so long.",
    ),
    click.option(
        "--kill-stuck-after", metavar="SECONDS", type=FiniteRange(min=0),
        default=_DEFAULTS.stalled, show_default=True,
        help="Such an engine is killed and started again after so long; 0: never.",
    ),
    click.option(
        "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
        help="Of the log lines on stderr; json: an object each.",
    ),
    click.option("--log-prompts", is_flag=True, help="Prompts and answers into the log; otherwise never."),
    click.option(
        "--otlp-endpoint", metavar="URL",
        help="Send traces to this OpenTelemetry collector (OTLP over HTTP); the OTEL_* variables count too.",
    ),
    click.option(
        "--capsule-dir", type=click.Path(path_type=Path, file_okay=False),
        help="Write requests here that `mosso replay` can run again: token ids, sampling, versions.",
    ),
    click.option(
        "--capsules", type=click.Choice(["asked", "failed", "all"]), default="failed", show_default=True,
        help="Which: those with the header X-Mosso-Capsule: 1; also those that failed on our side; all.",
    ),
    click.option("--capsule-text", is_flag=True, help="Capsules hold the text too."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operations:
    """What those flags say."""

    restarts: RestartPolicy
    stuck_after: float
    otlp_endpoint: str | None
    capsule_dir: Path | None
    capsules: Which
    capsule_text: bool
    log_prompts: bool

    def watchers(self, model: str, owned: ExitStack) -> Watchers:
        """Raises UsageError for what cannot be had. What it opens is closed with `owned`."""
        from mosso.server.capsules import Capsules
        from mosso.server.logs import TextLog

        folder = self.capsule_dir
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"--capsule-dir {folder}: {error.strerror}") from None
        tracing = self._tracing(model, owned)

        def make(source: Supervisor, tokenizer: Tokenizer) -> list[Watcher]:
            made: list[Watcher] = [] if tracing is None else [tracing]
            if folder is not None:
                text = tokenizer if self.capsule_text else None
                made.append(Capsules(folder, self.capsules, about(model, source), text))
            if self.log_prompts:
                made.append(TextLog(tokenizer))
            return made

        return make

    def _tracing(self, model: str, owned: ExitStack) -> Tracing | None:
        by_variable = any(os.environ.get(name) for name in _ENDPOINTS)
        if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not (
            self.otlp_endpoint or by_variable
        ):
            return None
        try:
            from mosso.server.tracing import Tracing, http_exporter, provider
        except ImportError:
            hint = "traces need OpenTelemetry: pip install 'mosso[otel]'"
            if self.otlp_endpoint is not None:
                raise UsageError(f"--otlp-endpoint: {hint}") from None
            logger.warning("OTEL_EXPORTER_OTLP_* is set, but %s", hint)
            return None
        return Tracing(owned.enter_context(provider(http_exporter(self.otlp_endpoint))), model)


def operations_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def operations_of(options: dict[str, Any]) -> Operations:
    """Takes its flags out of `options`."""
    return Operations(
        RestartPolicy(restarts=options.pop("restarts"), stalled=options.pop("kill_stuck_after") or None),
        stuck_after=options.pop("stuck_after"),
        otlp_endpoint=options.pop("otlp_endpoint"),
        capsule_dir=options.pop("capsule_dir"),
        capsules=options.pop("capsules"),
        capsule_text=options.pop("capsule_text"),
        log_prompts=options.pop("log_prompts"),
    )


def about(model: str, source: Supervisor) -> dict[str, Any]:
    """What an answer depends on beside its request, for capsules."""
    engine = {} if source.settings is None else asdict(source.settings)
    engine.pop("model", None)  # a path of this machine
    return {
        "model": model,
        "versions": versions(),
        "machine": platform.machine(),
        "engine": engine,
        "notes": list(source.notes),
    }


def versions() -> dict[str, str]:
    found = {"mosso": mosso.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
