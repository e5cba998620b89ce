"""Settings from the environment, for containers: a flag wins over MOSSO_*, then NIM_*, then the default.

--max-rows is MOSSO_MAX_ROWS, and so with every flag. NIM's variables are those below; others that are set
are said in a warning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from mosso.checkpoint.models import FOLDER_VARIABLES
from mosso.core.errors import UsageError

OWN = "MOSSO_"
NIM = {
    "model": "NIM_MODEL_NAME",
    "port": "NIM_SERVER_PORT",
    "name": "NIM_SERVED_MODEL_NAME",
    "max_context": "NIM_MAX_MODEL_LEN",
    "preset": "NIM_MODEL_PROFILE",
    "gpu_memory": "NIM_KVCACHE_PERCENT",
    "prefix_cache": "NIM_ENABLE_KV_CACHE_REUSE",
    "log_level": "NIM_LOG_LEVEL",
}
"""By the flag that each stands for."""
_ONE = ("NIM_TENSOR_PARALLEL_SIZE", "NIM_PIPELINE_PARALLEL_SIZE")  # a model is served by one device


class FromEnvironment(click.Command):
    """A command whose flags may be variables; what is wrong with one is said under the variable's name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            param.envvar = variables(param)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            if error.param is not None and _from_environment(ctx, error.param):
                error.param_hint = f"'{_variable(error.param)}'"
            raise

    def invoke(self, ctx: click.Context) -> Any:
        check_parallel()
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise UsageError("; ".join([error.message, *_origins(ctx, error.message)])) from None


def variables(param: click.Parameter) -> list[str]:
    """The variables of a flag or argument, the strongest first."""
    own = OWN + param.opts[0].lstrip("-").replace("-", "_").upper()
    return [own, NIM[param.name]] if param.name in NIM else [own]


def check_parallel() -> None:
    """UsageError where NIM's variables ask for more devices than one."""
    for name in _ONE:
        if os.environ.get(name, "1") != "1":
            raise UsageError(
                f"{name} is {os.environ[name]!r}, but a model is served by one device here: only 1 works"
            )


def without_meaning() -> list[str]:
    """NIM's variables that are set and mean nothing here."""
    known = {*NIM.values(), *FOLDER_VARIABLES, *_ONE}
    return sorted(name for name in os.environ if name.startswith("NIM_") and name not in known)


def _from_environment(ctx: click.Context, param: click.Parameter) -> bool:
    return ctx.get_parameter_source(param.name or "") is ParameterSource.ENVIRONMENT


def _variable(param: click.Parameter) -> str:
    return next(name for name in variables(param) if os.environ.get(name))


def _origins(ctx: click.Context, message: str) -> Iterator[str]:
    """Where the flags that `message` names came from, if not from the command line."""
    for param in ctx.command.params:
        named = [flag for flag in param.opts if f"{flag} " in f"{message} "]
        if named and _from_environment(ctx, param):
            yield f"{named[0]} comes from {_variable(param)}"
