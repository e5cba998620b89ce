"""Commands run in this process, over a server with the demo model for each module."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from mosso.checkpoint.models import find_model
from mosso.cli.main import main
from mosso.cli.serving import LocalServer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with LocalServer(find_model("demo")) as server:
        yield server.url


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run `mosso ...`; a traceback is never an answer."""

    def invoke(*arguments: object, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke
